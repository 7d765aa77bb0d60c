"""What to say when a name is unknown: the nearest known one, or all of them when they are few.

Called wherever a person types a name: settings, commands, backends chosen by name. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

FEW = 12
"""As many known names as are still worth listing in an error."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name most like `word`. A dotted name is also found by its last part alone."""
    names = sorted(known)
    close = get_close_matches(word, names, n=1)
    if close:
        return close[0]
    last_parts: dict[str, str] = {}
    for name in names:
        last_parts.setdefault(name.rpartition(".")[2], name)
    close = get_close_matches(word.rpartition(".")[2], last_parts, n=1, cutoff=0.75)
    return last_parts[close[0]] if close else None


def hint(word: str, known: Iterable[str]) -> str:
    """The end of an error about `word`: `; did you mean …?`, `; known: …`, or nothing."""
    names = sorted(known)
    near = nearest(word, names)
    if near is not None:
        return f"; did you mean {near}?"
    return f"; known: {', '.join(names)}" if 0 < len(names) <= FEW else ""
