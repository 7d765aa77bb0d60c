"""The frame around a service's life: settings from file, environment and flags; logging; a loop; a status.

A service's `__main__` calls `run_service` with its settings class and its life, a coroutine that returns
after a stop that was asked for. Exit status: 0 after that, 2 for a mistake in what was set, 1 when the
service could not go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

import uvloop

from baton.core.errors import BatonError, Misconfigured
from baton.core.settings import from_command_line
from baton.telemetry import LogSettings, logging_to


class Logged(Protocol):
    """Settings of a service."""

    @property
    def logs(self) -> LogSettings: ...


S = TypeVar("S", bound=Logged)


def run_service(
    name: str,
    kind: type[S],
    life: Callable[[S], Coroutine[Any, Any, None]],
    words: Sequence[str] | None = None,
) -> int:
    """The process's exit status. `words` are the command line's, without the program."""
    return framed(name, kind, lambda settings: live(name, life(settings)), words)


def framed(name: str, kind: type[S], serve: Callable[[S], int], words: Sequence[str] | None = None) -> int:
    """As `run_service`, for a service whose processes `serve` makes itself; what it answers is the status."""
    program, log = f"python -m baton.{name}", logging.getLogger(f"baton.{name}")
    try:
        found = from_command_line(kind, program, sys.argv[1:] if words is None else words, os.environ)
    except Misconfigured as error:
        sys.stderr.write(f"{program}: {error}\n")
        return 2
    with logging_to(settings=found.settings.logs, service=name):
        try:
            return serve(found.settings)
        except Misconfigured as error:
            log.error("cannot start: %s", error)
            return 2


def live(name: str, life: Coroutine[Any, Any, None]) -> int:
    """One process's whole life, on a loop of its own; its status."""
    log = logging.getLogger(f"baton.{name}")
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(life)
    except Misconfigured as error:
        log.error("cannot start: %s", error)
        return 2
    except BatonError as error:
        log.error("stopped: %s", error)
        return 1
    return 0


def leave(status: int) -> NoReturn:
    """End the process with its status, which being asked to stop once more does not change."""
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, signal.SIG_IGN)
    sys.exit(status)
