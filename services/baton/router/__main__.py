"""Where a router starts: `python -m baton.router --model.tokenizer DIR --state.url redis://…`.

The one place that makes its parts and knows their order:
settings → tokenizer → listen → follow the fleet → serve → drain → stop. Exit status: 0 after a stop that was
asked for, 2 for a mistake in what was set, 1 when it could not go on.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial

import uvloop

from baton.core.errors import BatonError, Misconfigured
from baton.core.settings import from_command_line
from baton.router.process import Share, run
from baton.router.settings import RouterSettings
from baton.router.workers import Workers
from baton.telemetry import logging_to

log = logging.getLogger("baton.router")

PROGRAM = "python -m baton.router"


def main(arguments: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if arguments is None else arguments
    try:
        settings = from_command_line(RouterSettings, PROGRAM, words, os.environ).settings
    except Misconfigured as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return 2
    with logging_to(settings=settings.logs, service="router"):
        if settings.workers == 1:
            return _serve(settings, Share())
        try:
            return Workers(settings, partial(_serve, settings)).run()
        except Misconfigured as error:
            log.error("cannot start: %s", error)
            return 2


def _serve(settings: RouterSettings, share: Share) -> int:
    """One process's whole life."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(settings, share))
    except Misconfigured as error:
        log.error("cannot start: %s", error)
        return 2
    except BatonError as error:
        log.error("stopped: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
