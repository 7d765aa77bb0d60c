"""Simulated workers in processes of their own, started in milliseconds: forks of one that imported all."""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.context import ForkServerProcess

from baton.testing.simulated import SimulatedSettings
from baton.testing.simulated.__main__ import run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.router.nursery"])


def start(settings: SimulatedSettings) -> ForkServerProcess:
    process = CONTEXT.Process(target=_serve, args=(settings,), daemon=True)
    process.start()
    return process


def _serve(settings: SimulatedSettings) -> None:
    asyncio.run(run(settings))
