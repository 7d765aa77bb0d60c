"""A page's identity: one chained hash that names the whole prefix ending in that page.

The router computes the chain once per request; the radix tree, the events in Redis, the router's
index and the hand-over all compare these 16 bytes and never hash again. An engine continues a
request's chain with `Chain` as generation fills pages.

The chain: the root is a hash of the salt, and each full page's identity is the hash of the identity
before it and of its token ids as little-endian int32. A page that is not full has no identity. Two
salts give unrelated chains, so whatever must not share a cache (model, adapter, tenant) goes into the
salt, through `root_salt`. Changing anything here changes every identity: routers and engines of one
fleet must agree on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from struct import error as PackError
from struct import pack
from typing import Any

import numpy as np
import numpy.typing as npt

from baton.core.errors import InvalidField

IDENTITY_BYTES = 16

TokenIds = Sequence[int] | npt.NDArray[np.integer[Any]]

_TOKEN_BYTES = 4
# Keeps roots apart from page identities: no page content can produce a root, and no salt a page.
_ROOT = b"baton.root"
_SALT = b"baton.salt"


def root_salt(model_fingerprint: str, adapter: str = "", cache_salt: str = "", *more: bytes) -> bytes:
    """One salt of everything that separates caches. Each part carries its length, so ("a", "bc") and
    ("ab", "c") differ; the result is a digest, so a tenant's salt does not travel in the clear."""
    parts = (model_fingerprint.encode(), adapter.encode(), cache_salt.encode(), *more)
    joined = b"".join(pack("<Q", len(part)) + part for part in parts)
    return blake2b(joined, digest_size=32, person=_SALT).digest()


def page_identities(token_ids: TokenIds, page_size: int, salt: bytes = b"") -> tuple[bytes, ...]:
    """The identity of every full page of the prompt, first page first."""
    return extend_identities((), token_ids, page_size, salt)


def extend_identities(
    before: Sequence[bytes], token_ids: TokenIds, page_size: int, salt: bytes = b""
) -> tuple[bytes, ...]:
    """The identities of the full pages of `token_ids`, which follow the pages named by `before`."""
    parent = before[-1] if before else _root(salt)
    return tuple(_chain(parent, _as_bytes(token_ids), page_size * _TOKEN_BYTES))


class Chain:
    """The rolling state of one sequence's identities. Its owner appends each token once its KV is due
    to be written; it remembers at most one page of token ids besides the identities."""

    __slots__ = ("_identities", "_page_size", "_parent", "_tail")

    def __init__(
        self,
        token_ids: Sequence[int],
        page_size: int,
        salt: bytes = b"",
        identities: Sequence[bytes] | None = None,
    ) -> None:
        """`identities`, when they travelled with the request, are those of the full pages of `token_ids`
        and spare the hashing."""
        if identities is None:
            identities = page_identities(token_ids, page_size, salt)
        elif len(identities) != len(token_ids) // page_size:
            raise InvalidField(
                "identities",
                f"{len(identities)} for {len(token_ids)} tokens in pages of {page_size}",
            )
        self._page_size = page_size
        self._identities = list(identities)
        self._parent = self._identities[-1] if self._identities else _root(salt)
        self._tail = list(token_ids[len(self._identities) * page_size :])

    def __repr__(self) -> str:
        return f"Chain({len(self._identities)} pages of {self._page_size}, {len(self._tail)} tokens over)"

    def __len__(self) -> int:
        """How many tokens the chain has seen."""
        return len(self._identities) * self._page_size + len(self._tail)

    @property
    def identities(self) -> Sequence[bytes]:
        """One per full page so far. The chain's own list: read it, do not change it."""
        return self._identities

    def append(self, token_id: int) -> bytes | None:
        """Add one token; the identity of the page that it filled, if it filled one."""
        tail = self._tail
        tail.append(token_id)
        if len(tail) < self._page_size:
            return None
        self._parent = _page(self._parent, _as_bytes(tail))
        self._identities.append(self._parent)
        tail.clear()
        return self._parent

    def extend(self, token_ids: Iterable[int]) -> tuple[bytes, ...]:
        """Add tokens; the identities of the pages that they filled."""
        first = len(self._identities)
        for token_id in token_ids:
            self.append(token_id)
        return tuple(self._identities[first:])


def _root(salt: bytes) -> bytes:
    return blake2b(salt, digest_size=IDENTITY_BYTES, person=_ROOT).digest()


def _page(parent: bytes, content: bytes) -> bytes:
    return blake2b(parent + content, digest_size=IDENTITY_BYTES).digest()


def _chain(parent: bytes, content: bytes, page_bytes: int) -> list[bytes]:
    identities = []
    # The loop body is `_page` written out: a call per page would cost a quarter more.
    for start in range(0, len(content) - page_bytes + 1, page_bytes):
        parent = blake2b(parent + content[start : start + page_bytes], digest_size=IDENTITY_BYTES).digest()
        identities.append(parent)
    return identities


def _as_bytes(token_ids: TokenIds) -> bytes:
    """Token ids as little-endian int32, whatever they came as, so that equal ids hash equally."""
    if isinstance(token_ids, np.ndarray):
        if token_ids.dtype.kind not in "iu" or token_ids.ndim != 1:
            raise InvalidField("token_ids", f"need one dimension of whole numbers, not {token_ids.dtype}")
        if token_ids.itemsize >= _TOKEN_BYTES and token_ids.size and token_ids.dtype != np.int32:
            _check_range(int(token_ids.min()), int(token_ids.max()))
        return token_ids.astype("<i4", copy=False).tobytes()
    try:
        return pack(f"<{len(token_ids)}i", *token_ids)
    except PackError as error:
        raise InvalidField("token_ids", f"need whole numbers of 32 bits: {error}") from error


def _check_range(low: int, high: int) -> None:
    if low < -(2**31) or high >= 2**31:
        raise InvalidField("token_ids", f"need whole numbers of 32 bits, not {low} to {high}")
