"""Where a client stands in an answer: what the ids of its events tell, and `Last-Event-ID` brings back.

    id: 01k9x…8zq.9c3d21aa.1f2e3d4c/0.17:1523,88
        request   model    digest   choice.tokens before:these tokens

The router names each stream of one choice by the request that began it (a ticket); the pod that writes the
events adds a digest of all tokens so far. Nobody keeps anything: the seed of a request that has none is drawn
from its id, so whoever is asked again, at any router, gets the same tokens. The pod computes those that the
client has once more, compares the digest, and tells only what follows.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from baton.core.errors import InvalidField
from baton.core.ids import ALPHABET

HEADER = "Last-Event-ID"
LAST_EVENT = HEADER.lower().encode()

_REQUEST = "req-"
_SHOWN = 80
_ID = re.compile(
    rf"([{ALPHABET}]{{24}})\.([0-9a-f]{{8}})\.([0-9a-f]{{8}})/"
    r"0\.(\d{1,9})(?:\+\d{1,9})?:((?:\d+(?:,\d+)*)?)(\.?)",
    re.ASCII,
)


class Had(NamedTuple):
    """What a client has of an answer's one choice."""

    tokens: int
    digest: int
    """Of all of them."""
    ended: bool
    """Its finish reason too."""

    def and_then(self, token_ids: Sequence[int], ended: bool) -> Had:
        """With what it was sent since."""
        return Had(self.tokens + len(token_ids), digest_of(token_ids, self.digest), ended)


@dataclass(frozen=True, slots=True)
class Bookmark:
    request: str
    """The id of the request that began the answer."""
    model: str
    """The mark of the model that it came from."""
    had: Had


def digest_of(token_ids: Sequence[int], before: int = 0) -> int:
    """Of tokens that follow those of the digest `before`, however both were grouped into events."""
    return crc32(array("I", token_ids), before)


def mark_of(fingerprint: str) -> str:
    """A model in eight characters."""
    return blake2b(fingerprint.encode(), digest_size=4).hexdigest()


def ticket_of(request: str, fingerprint: str) -> str:
    """What begins the ids of an answer's events."""
    return f"{request.removeprefix(_REQUEST)}.{mark_of(fingerprint)}"


def read_bookmark(value: str) -> Bookmark:
    """Of the header's value. InvalidField names the header."""
    found = _ID.fullmatch(value)
    if found is None:
        raise InvalidField(HEADER, f"is no id of an answer that can be continued: {value[:_SHOWN]!r}")
    request, model, digest, start, ids, final = found.groups()
    if not ids and not final:
        raise InvalidField(HEADER, "names no token and no end")
    tokens = int(start) + (ids.count(",") + 1 if ids else 0)
    return Bookmark(_REQUEST + request, model, Had(tokens, int(digest, 16), bool(final)))
