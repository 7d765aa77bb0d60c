"""The release as the package's metadata has it."""

from __future__ import annotations

import re

from baton.core.version import UNINSTALLED, version


def test_a_version_or_the_word_for_none() -> None:
    assert version() == UNINSTALLED or re.fullmatch(r"\d+\.\d+\.\d+.*", version())
