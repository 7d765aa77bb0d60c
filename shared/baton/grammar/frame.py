"""How calls of tools are written around their JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Frame:
    """As text: a tag that is a token of its own is none."""

    opens: str = ""
    closes: str = ""
    between: str = ""
    """Two calls."""
    begins: str = ""
    """Before the first."""
    ends: str = ""
    arguments: str = "arguments"
    """Under which name the JSON has them."""
