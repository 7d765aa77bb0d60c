"""Which prefill worker a prompt goes to, where the router named none or its choice cannot be had. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from baton.decode.peer import Peer


def choose(
    peers: Iterable[Peer], busy: Counter[int], prefer: Sequence[str] = (), tried: Collection[Peer] = ()
) -> Peer | None:
    """Of the peers that take work, the first that is preferred (by its pod's id), else the one with the least
    to do; one not tried before if there is any. `busy`: attempts open with each, by `id()`."""
    able = [peer for peer in peers if peer.takes_work]
    fresh = [peer for peer in able if peer not in tried] or able
    for pod in prefer:
        for peer in fresh:
            if peer.pod == pod:
                return peer
    # A path that is being set up may take seconds: others go first.
    return min(fresh, key=lambda peer: (not peer.met, busy[id(peer)] + peer.waiting), default=None)
