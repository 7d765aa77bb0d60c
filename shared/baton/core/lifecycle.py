"""How a service's process waits: for signals that ask it to stop, and for the first of several ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any


def stop_asked() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first and by the second SIGTERM or Ctrl-C."""
    stop, hurry = asyncio.Event(), asyncio.Event()

    def asked() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, asked)
    return stop, hurry


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Until one of them is done; the others are given up. Raises what that one raised."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
