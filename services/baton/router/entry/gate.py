"""Whether a request gets in at all: not while draining, not without a key, not beyond what its key may.

Asked before a body is read. Also counts who is inside, so that a router that stops knows when it is empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from starlette.types import Scope

from baton.core.errors import Draining
from baton.router.entry.admission import Admission
from baton.router.entry.keys import Key, KeyRing
from baton.router.entry.limits import KeyLimits


class Gate:
    def __init__(self, keys: KeyRing, limits: KeyLimits, admission: Admission) -> None:
        self.draining = False
        self._inside: set[asyncio.Task[object]] = set()
        self._keys = keys
        self._limits = limits
        self._admission = admission
        self._empty = asyncio.Event()
        self._empty.set()

    def __repr__(self) -> str:
        return f"Gate({'draining, ' if self.draining else ''}{self.inside} inside)"

    @property
    def inside(self) -> int:
        return len(self._inside)

    @contextmanager
    def admit(self, scope: Scope) -> Iterator[Key]:
        if self.draining:
            raise Draining("this router is leaving; others take new requests")
        key = self._keys.who(scope)
        self._admission.check()
        task = asyncio.current_task()
        assert task is not None
        with self._limits.hold(key):
            self._inside.add(task)
            self._empty.clear()
            try:
                yield key
            except asyncio.CancelledError:
                if task in self._inside or task.uncancel() > 0:
                    raise
                raise Draining("this router had to stop before the request was done") from None
            finally:
                self._inside.discard(task)
                if not self._inside:
                    self._empty.set()

    def check_operator(self, scope: Scope) -> None:
        """Raise unless whoever asks may see what the router does for everybody."""
        self._keys.check_operator(scope)

    def end_all(self) -> None:
        """End whatever is still inside; each client is told."""
        for task in tuple(self._inside):
            self._inside.discard(task)
            task.cancel()

    async def drain(self, seconds: float) -> bool:
        """Take nobody in, and wait for those inside. False when the time was not enough."""
        self.draining = True
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            return False
        return True
