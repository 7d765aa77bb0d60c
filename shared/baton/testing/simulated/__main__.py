"""One simulated worker in a process of its own: `python -m baton.testing.simulated --id w1 --state_url redis://…`.

Says `listening` on standard output once it does; ends on SIGTERM after what is open.
"""

from __future__ import annotations

import asyncio
import os
import sys

import uvloop

from baton.core.lifecycle import first_of, stop_asked
from baton.core.settings import from_command_line
from baton.telemetry import logging_to
from baton.testing.simulated.settings import SimulatedSettings
from baton.testing.simulated.worker import SimulatedWorker


async def run(settings: SimulatedSettings) -> None:
    stop, hurry = stop_asked()
    async with SimulatedWorker(settings) as worker:
        sys.stdout.write(f"listening {worker.port}\n")
        sys.stdout.flush()
        await stop.wait()
        worker.drain()
        await first_of(_done(worker), hurry.wait())


async def _done(worker: SimulatedWorker) -> None:
    while worker.running:
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    given = from_command_line(SimulatedSettings, "simulated", sys.argv[1:], os.environ).settings
    with logging_to(service="simulated"), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(given))
