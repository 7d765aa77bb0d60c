"""The life of `baton up`: Redis → pods and router side by side → ready → watch → end everything."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import httpx

from baton.cli.up.choice import Choice, free_ports, plan, refuse_taken
from baton.cli.up.process import Process
from baton.cli.up.screen import Screen
from baton.core.errors import DeadlineExceeded, WorkerDied
from baton.core.lifecycle import first_of
from baton.state.embedded import EmbeddedRedis

START_S = 600.0
"""How long pods may take to become ready: big weights come from slow disks."""
STOP_S = 40.0
"""How long all may take to end when asked to."""
LOOK_S = 0.15
MOST_RESTARTS = 5
"""Of one pod; then something is wrong that starting again does not mend."""


async def run(choice: Choice) -> int:
    refuse_taken(choice.host, choice.port)
    began, screen = time.monotonic(), Screen(sys.stdout)
    stop = _stop_asked()
    async with AsyncExitStack() as stack:
        redis = None if choice.redis_url else await stack.enter_async_context(EmbeddedRedis())
        redis_url = redis.url if redis is not None else choice.redis_url
        ports = free_ports()
        planned = plan(choice, redis_url, _gpus(), ports)
        ports.close()
        screen.expect([one.name for one in planned])
        processes = [Process(one, partial(screen.line, one.name)) for one in planned]
        stack.push_async_callback(_end, processes, screen, stop)
        for one in processes:
            await one.start()
        if await _ready(processes, screen, stop):
            screen.say(_welcome(choice, len(planned) - 1, time.monotonic() - began))
            await _watch(processes, redis, screen, stop)
    return 0


def _stop_asked() -> asyncio.Event:
    """Set by Ctrl-C and SIGTERM; also where whoever started us had them ignored."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _ready(processes: Sequence[Process], screen: Screen, stop: asyncio.Event) -> bool:
    """Wait until all are; False when told to stop meanwhile."""
    deadline = time.monotonic() + START_S
    async with httpx.AsyncClient() as http:
        while not stop.is_set():
            _check(processes)
            told = await asyncio.gather(*(one.progress(http) for one in processes))
            waiting = {one.name: words for one, words in zip(processes, told, strict=True) if words}
            if not waiting:
                screen.status("")
                return True
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{', '.join(waiting)} not ready within {START_S:.0f} s")
            screen.status(" · ".join(f"{name}: {words}" for name, words in waiting.items()))
            await asyncio.sleep(LOOK_S)
    screen.status("")
    return False


def _check(processes: Sequence[Process]) -> None:
    for one in processes:
        if not one.running:
            raise WorkerDied(f"{one.name} ended with status {one.status}: {one.last_words()}")


async def _watch(
    processes: Sequence[Process], redis: EmbeddedRedis | None, screen: Screen, stop: asyncio.Event
) -> None:
    """Until told to stop. A pod or a Redis of ours that dies is started again, as a cluster would; without a
    router there is nothing left to see."""
    while not stop.is_set():
        if redis is not None and not redis.running:
            screen.say("Redis has died; it is started again")
            await redis.start()
        for one in processes:
            if one.running:
                continue
            if one.name == "router" or one.restarts >= MOST_RESTARTS:
                raise WorkerDied(f"{one.name} ended with status {one.status}: {one.last_words()}")
            one.restarts += 1
            screen.say(f"{one.name} has died (status {one.status}); it is started again")
            one.kill()  # what it had started
            await one.start()
        try:
            async with asyncio.timeout(LOOK_S):
                await stop.wait()
        except TimeoutError:
            continue


async def _end(processes: Sequence[Process], screen: Screen, stop: asyncio.Event) -> None:
    """Router first, so that nobody is sent to pods that leave. A second Ctrl-C ends them at once. Leaves no
    process."""
    stop.clear()
    running = [one for one in reversed(processes) if one.running]
    if running:
        screen.say("stopping; Ctrl-C once more ends it at once")
    for one in running:
        one.terminate()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_S):
            await first_of(_all_ended(running), stop.wait())
    for one in processes:
        one.kill()
    await _all_ended(running)


async def _all_ended(processes: Sequence[Process]) -> None:
    await asyncio.gather(*(one.wait() for one in processes))


def _gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES allows, or every device file."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [word for word in given.split(",") if word]
    return sorted((path.name[6:] for path in Path("/dev").glob("nvidia[0-9]*")), key=int)


def _welcome(choice: Choice, pods: int, seconds: float) -> str:
    url = f"http://{'localhost' if choice.at == '127.0.0.1' else choice.at}:{choice.port}"
    asked = {
        "model": choice.name,
        "messages": [{"role": "user", "content": "What is a prefill pod?"}],
        "temperature": 0,
    }
    return "\n".join(
        [
            "",
            f"Baton answers on {url} after {seconds:.1f} s: a router and {pods} pods",
            f"  curl {url}/v1/chat/completions -H 'content-type: application/json' \\",
            f"    -d '{json.dumps(asked)}'",
            f"  baton chat --url {url}      baton top --url {url}      {url}/ui/",
            "Ctrl-C ends it.",
            "",
        ]
    )
