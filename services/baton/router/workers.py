"""Several router processes behind one port: forks them, starts again what dies, and ends them together.

The parent binds the sockets and does nothing else: no event loop, no thread, so that it may fork at any
time. Each child is a whole router, but for one: the feed, which reads prefix events for all of them and goes
last. Any router tells of all: its /metrics, its page, its /debug paths.
"""

from __future__ import annotations

import ctypes
import logging
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from baton.http import listen
from baton.router.process import Share
from baton.router.settings import RouterSettings

log = logging.getLogger("baton.router")

HEARD = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
YOUNG_S = 5.0
"""A child that ends sooner than this after its start is not started again at once."""
PAUSE_S = 1.0
MISCONFIGURED = 2
PR_SET_PDEATHSIG = 1


class Workers:
    def __init__(
        self,
        settings: RouterSettings,
        serve: Callable[[Share], int],
        feed: Callable[[socket.socket], int],
    ) -> None:
        """`serve` is a child's whole life, `feed` that of the feed; its exit status comes of it."""
        self._settings = settings
        self._page_port = settings.ui.port if settings.ui.enabled else 0
        self._serve = serve
        self._feed = feed
        self._lives: list[Callable[[], int]] = []
        """Of each child, by number; the last is the feed's."""
        self._running: dict[int, tuple[int, float]] = {}
        """Process id → number, and when it was started."""
        self._stopping = False
        self._status = 0

    def run(self) -> int:
        """Until all have ended. The exit status."""
        signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)
        with ExitStack() as stack:
            http = self._settings.http
            main = stack.enter_context(listen(http.host, http.port))
            second = [self._settings.http.metrics_port, self._page_port]
            metrics, page = (
                stack.enter_context(listen(http.host, port)) if port else None for port in second
            )
            own = [stack.enter_context(listen("127.0.0.1", 0)) for _ in range(self._settings.workers)]
            ports = tuple([one.getsockname()[1] for one in own])
            feeding = stack.enter_context(listen("127.0.0.1", 0))
            port = feeding.getsockname()[1]
            word = secrets.token_hex(16)
            shares = [Share(main, metrics, page, one, ports, word, port) for one in own]
            self._lives = [
                *(partial(self._route, share) for share in shares),
                lambda: self._feed(feeding.dup()),
            ]
            for number in range(len(self._lives)):
                self._start(number)
            while self._running:
                self._turn(signal.sigwait(HEARD))
        return self._status

    def _turn(self, heard: int) -> None:
        if heard == signal.SIGCHLD:
            for pid in list(self._running):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._ended(pid, os.waitstatus_to_exitcode(status))
            return
        self._stopping = True
        self._tell(signal.SIGTERM)

    def _start(self, number: int) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._running[pid] = (number, time.monotonic())
            return
        status = 1
        try:
            _die_with(parent)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HEARD)
            status = self._lives[number]()
        finally:
            sys.stderr.flush()
            os._exit(status)

    def _route(self, share: Share) -> int:
        return self._serve(_own(share))

    def _ended(self, pid: int, status: int) -> None:
        number, started_at = self._running.pop(pid)
        if self._stopping:
            self._status = self._status or (1 if status else 0)
            if self._feed_alone:
                self._tell(signal.SIGTERM)
            return
        log.error("a process ended", extra={"number": number, "status": status})
        if status == MISCONFIGURED:  # the others will find the same mistake
            self._stopping, self._status = True, MISCONFIGURED
            self._tell(signal.SIGTERM)
            return
        if time.monotonic() - started_at < YOUNG_S:
            time.sleep(PAUSE_S)
        self._start(number)

    def _tell(self, what: signal.Signals) -> None:
        """All; the feed when nobody is left whom it feeds."""
        for pid, (number, _) in self._running.items():
            if number != len(self._lives) - 1 or self._feed_alone:
                os.kill(pid, what)

    @property
    def _feed_alone(self) -> bool:
        return [number for number, _ in self._running.values()] == [len(self._lives) - 1]


def _own(share: Share) -> Share:
    """Sockets of this process alone: closing them leaves the parent's, and the next child's, as they are."""

    def copy(one: socket.socket | None) -> socket.socket | None:
        return None if one is None else one.dup()

    return replace(
        share, main=copy(share.main), metrics=copy(share.metrics), page=copy(share.page), own=copy(share.own)
    )


def _die_with(parent: int) -> None:
    """No child outlives its parent, however that ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(1)
