"""What committed text must not hold: places that exist on somebody's machine alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLACES = re.compile(r"(?<![\w.$})-])/(?:work|root|Users|home/(?!baton\b)\w+|tmp/\w+_jobs)/[\w.]")
"""Absolute paths that exist on one machine alone."""


def _files() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("no git here to say which files are the project's")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_the_pattern_finds_places() -> None:
    slash = "/"
    for place in ["work/main/x", "root/.cache", "Users/ann/x", "home/ann/baton"]:
        assert PLACES.search(f"cd {slash}{place}")
    for fine in [
        "src/work/main",
        "https://example.org/work/x",
        "/var/lib/x",
        "/home/baton/x",
        "$HOME/work/x",
    ]:
        assert not PLACES.search(fine)


def test_no_file_names_a_place_on_somebody_s_machine() -> None:
    found = []
    for path in _files():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{number}"
            for number, line in enumerate(lines, 1)
            if PLACES.search(line)
        ]
    assert found == []
