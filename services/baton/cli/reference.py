"""`baton config --reference`: every setting of every service, as Markdown for docs/configuration.md.

A test compares the file with what this writes, so the two cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from baton.core.settings import PREFIX
from baton.core.settings.listing import kind_of, spell_default
from baton.core.settings.schema import Leaf, leaves

OPENING = """\
# Configuration
Made by `baton config --reference` from the settings classes; a test keeps the two in step. Do not edit.

Every service reads one tree of settings. A flag (`--http.port 9000`) goes before the environment
(`{prefix}_HTTP__PORT=9000`: two underscores between section and name), which goes before the file given by
`--config FILE` or `{prefix}_CONFIG` (TOML or JSON), which goes before the default. Unknown names are refused
with the nearest known one. `baton config NAME --explain` shows every value of a service and where it came
from.

Lists are written `a,b` in flags and variables. Secrets are never shown.
"""


def reference(services: Mapping[str, type]) -> str:
    """`services`: name → settings class."""
    parts = [OPENING.format(prefix=PREFIX)]
    for name, schema in services.items():
        summary = " ".join((schema.__doc__ or "").split())
        parts.append(f"\n## {name}\n{summary}\n")
        for section, group in groupby(leaves(schema), key=lambda leaf: leaf.path.rpartition(".")[0]):
            parts.append(f"\n### {name}: {section}\n" if section else "")
            parts += _table(group)
    return "".join(parts)


def _table(group: Iterator[Leaf]) -> Iterator[str]:
    yield "\n| setting | type | default | meaning |\n|---|---|---|---|\n"
    for leaf in group:
        cells = (f"`{leaf.path}`", kind_of(leaf), f"`{spell_default(leaf)}`", " ".join(leaf.doc.split()))
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"
