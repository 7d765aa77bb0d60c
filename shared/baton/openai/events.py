"""Server-sent events: writing them with the token ids they carry, and relaying them whole.

Each event that brings tokens names, in the `id:` field, its choice, how many tokens that choice had
before, and the ids of the new ones: `id: 0.17:1523,88`; a dot at the end says that the choice has ended.
What a client needs to come back with may stand before a slash (`bookmark`). A router relays bytes through
`EventRelay` and reads those fields only when a pod was lost, to resume the request where its client stands.
OpenAI's clients skip the field.

An event's ids are those of all tokens since the event before it, also of those whose text is held back: a
character that is not whole, the beginning of a stop string. What is held back is a function of the ids, so
whoever resumes finds it again by reading them, and neither loses nor repeats a character. What follows the
last choice's end (usage, a timeline) is one with `[DONE]`: a client gets all of it, from one pod, or none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from baton.core.errors import Failed

DONE = b"data: [DONE]\n\n"

_LAST = b": last\n"
"""A comment before the first of the events that are one with `[DONE]`."""
_END = b"\n\n"
_ID = b"id: "
_FIELD = re.compile(rb"id: (?:[\w.-]*/)?(\d+)\.(\d+):([\d,]*)(\.?)")


def sse(
    data: bytes, token_ids: Sequence[int] = (), choice: int = 0, start: int = 0, final: bool = False
) -> bytes:
    """One event. `start`: how many tokens of this choice came in the events before it."""
    return b"%bdata: %b\n\n" % (id_field(token_ids, choice, start, final), data)


def id_field(
    token_ids: Sequence[int], choice: int, start: int, final: bool = False, bookmark: str = ""
) -> bytes:
    """Empty for an event that brings no token and ends no choice."""
    if not token_ids and not final:
        return b""
    return f"id: {bookmark}{choice}.{start}:{','.join(map(str, token_ids))}{'.' if final else ''}\n".encode()


def ending(*events: bytes) -> bytes:
    """How a stream ends that went well: what is to be said after the last choice's end, and `[DONE]`."""
    said = b"".join(events)
    return _LAST + said + DONE if said else DONE


@dataclass(slots=True)
class Delivered:
    """What a client has of one choice."""

    token_ids: list[int] = field(default_factory=list)
    """Those that went by here."""
    ended: bool = False
    """Its finish reason went by too."""


class EventRelay:
    """Passes one client's stream on in whole events, so that it never sees half of one when a pod dies, and
    remembers which tokens went by, whichever pods they came from. Not thread-safe; one owner."""

    __slots__ = ("_before", "_ids", "_rest", "done", "relayed")

    def __init__(self, before: int = 0) -> None:
        """`before`: tokens that the client had of the only choice when it came."""
        self._before = before
        self.relayed = 0
        """Bytes passed on."""
        self.done = False
        """`[DONE]` went by: the stream ended well."""
        self._rest = b""
        # Kept as they came: nearly always nobody reads them.
        self._ids: list[bytes] = []

    def feed(self, data: bytes) -> bytes:
        """The whole events so far that were not passed on yet; the rest waits."""
        if self._rest:
            data = self._rest + data
        end = data.rfind(_END) + len(_END)
        if end < len(_END):
            self._rest = data
            return b""
        whole, self._rest = data[:end], data[end:]
        start = 0
        while start < end:
            if whole.startswith(_ID, start):
                self._ids.append(whole[start : whole.find(b"\n", start)])
            elif whole.startswith(_LAST, start) and not whole.endswith(DONE):
                whole, self._rest, end = whole[:start], whole[start:] + self._rest, start
                break
            start = whole.find(_END, start) + len(_END)
        self.relayed += end
        self.done = whole.endswith(DONE)
        return whole

    @property
    def tokens(self) -> int:
        """How many went by, of all choices."""
        return sum([line.count(b",") + (not line.endswith((b":", b":."))) for line in self._ids])

    def resume(self) -> dict[int, Delivered]:
        """The pod was lost and another goes on: forgets the half event, says what the client has."""
        self._rest = b""
        return self.delivered()

    def delivered(self) -> dict[int, Delivered]:
        """What went by of each choice that had any event with tokens, or its last."""
        choices: dict[int, Delivered] = {}
        for line in self._ids:
            found = _FIELD.fullmatch(line)
            if found is None:
                raise Failed(f"an event's id cannot be read: {line[:80]!r}")
            choice, start, ids, final = found.groups()
            one = choices.setdefault(int(choice), Delivered())
            if self._before + len(one.token_ids) != int(start) or one.ended:
                raise Failed(f"choice {int(choice)}: tokens from {int(start)} on do not follow what was sent")
            one.token_ids += map(int, ids.split(b",")) if ids else ()
            one.ended = bool(final)
        return choices
