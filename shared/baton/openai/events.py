"""Server-sent events: writing them with the token ids they carry, and relaying them whole.

Each event that brings tokens names, in the `id:` field, its choice, how many tokens that choice had
before, and the ids of the new ones: `id: 0.17:1523,88`; a dot at the end says that the choice has ended. The
first event of a prompt says besides how many of its tokens a pod had cached: `id: 0.0+48:1523`. What a client
needs to come back with may stand before a slash (`bookmark`). A router relays bytes through `EventRelay` and
reads those fields only when a pod was lost, to resume the request where its client stands, and at the end.
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
_FIELD = re.compile(rb"(\d+)\.(\d+)(?:\+(\d+))?:([\d,]*)(\.?)")


def sse(
    data: bytes,
    token_ids: Sequence[int] = (),
    choice: int = 0,
    start: int = 0,
    final: bool = False,
    cached: str = "",
) -> bytes:
    """One event. `start`: how many tokens of this choice came in the events before it."""
    return b"%bdata: %b\n\n" % (id_field(token_ids, choice, start, final, cached=cached), data)


def id_field(
    token_ids: Sequence[int],
    choice: int,
    start: int,
    final: bool = False,
    *,
    cached: str = "",
    bookmark: str = "",
) -> bytes:
    """Empty for an event that brings no token and ends no choice."""
    if not token_ids and not final:
        return b""
    ids = ",".join(map(str, token_ids))
    return f"id: {bookmark}{choice}.{start}{cached}:{ids}{'.' if final else ''}\n".encode()


def cached_of(count: int) -> str:
    """As `id_field` takes it."""
    return f"+{count}"


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

    __slots__ = ("_before", "_ids", "_rest", "_skipped", "done", "relayed")

    def __init__(self, before: int = 0) -> None:
        """`before`: tokens that the client had of the only choice when it came."""
        self._before = before
        self.relayed = 0
        """Bytes passed on."""
        self.done = False
        """`[DONE]` went by: the stream ended well."""
        self._rest = b""
        # Kept as they came, but for what they all begin with: nearly always nobody reads them.
        self._ids: list[bytes] = []
        self._skipped = 0

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
                line_end = whole.find(b"\n", start)
                if not self._ids:
                    self._skipped = max(len(_ID), whole.find(b"/", start, line_end) + 1 - start)
                self._ids.append(whole[start + self._skipped : line_end])
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

    @property
    def cached(self) -> int | None:
        """Prompt tokens that the first pod of each prompt found cached; None before any has said so."""
        told: dict[bytes, int] = {}
        for line in [line for line in self._ids if b"+" in line]:
            if found := _FIELD.fullmatch(line):
                told.setdefault(found[1], int(found[3]))
        return sum(told.values()) if told else None

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
            choice, start, _, ids, final = found.groups()
            one = choices.setdefault(int(choice), Delivered())
            if self._before + len(one.token_ids) != int(start) or one.ended:
                raise Failed(f"choice {int(choice)}: tokens from {int(start)} on do not follow what was sent")
            one.token_ids += map(int, ids.split(b",")) if ids else ()
            one.ended = bool(final)
        return choices
