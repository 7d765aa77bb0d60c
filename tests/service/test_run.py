"""The frame around a service: what its process's exit status says, and that its lines are its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from baton.core.errors import InvalidSetting, WorkerDied
from baton.service import run_service
from baton.telemetry import LogSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    count: int = 1
    """How often."""
    logs: LogSettings = field(default_factory=LogSettings)


Life = Callable[[ProbeSettings], Coroutine[Any, Any, None]]


def raising(error: Exception) -> Life:
    async def life(settings: ProbeSettings) -> None:
        raise error

    return life


def test_a_life_that_returns_is_success_on_the_fast_loop_with_its_settings(
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen = []

    async def life(settings: ProbeSettings) -> None:
        seen.append((settings.count, type(asyncio.get_running_loop())))
        logging.getLogger("baton.probe").info("at work")

    assert run_service("probe", ProbeSettings, life, ["--count", "3"]) == 0
    assert seen == [(3, uvloop.Loop)]
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["service"]) == ("at work", "probe")


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (InvalidSetting("count", "is too much"), 2, "cannot start: count: is too much"),
        (WorkerDied("rank 0 was killed"), 1, "stopped: rank 0 was killed"),
    ],
)
def test_what_ended_it_is_one_line_and_a_status(
    error: Exception, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_service("probe", ProbeSettings, raising(error), []) == status
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == message


def test_a_mistake_of_ours_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run_service("probe", ProbeSettings, raising(ZeroDivisionError()), [])


def test_a_wrong_flag_is_said_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_service("probe", ProbeSettings, raising(AssertionError("ran")), ["--cuont", "3"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m baton.probe: ") and "count" in line


LEAVING = """
import os, sys, time
sys.argv = ["probe"]
from baton.service import leave, run_service
from tests.service.test_run import ProbeSettings
from baton.core.lifecycle import stop_asked

async def life(settings):
    stop, _ = stop_asked()
    print("up", flush=True)
    await stop.wait()

class Slow:  # goes when modules do, after Python has given its signal handlers up
    def __del__(self, write=os.write, sleep=time.sleep):
        write(1, b"leaving\\n")
        sleep(0.5)

slow = Slow()
leave(run_service("probe", ProbeSettings, life, []))
"""


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_who_is_asked_again_while_it_leaves_keeps_its_status(again: signal.Signals) -> None:
    environ = {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}
    with subprocess.Popen(
        [sys.executable, "-c", LEAVING], stdout=subprocess.PIPE, text=True, env=environ
    ) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == "up\n"
        one.terminate()
        assert one.stdout.readline() == "leaving\n"
        one.send_signal(again)
        assert one.wait(20) == 0
