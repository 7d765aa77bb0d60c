"""Tags that come in pieces: what of a text stands, whatever follows."""

from __future__ import annotations

from baton.tokens.stop import first_possible


def decided(text: str, tag: str) -> int:
    """Up to where: behind it may begin the tag, or the space before it."""
    return len(text[: first_possible(text, (tag,))].rstrip())
