"""What a router costs: requests and streamed chunks a second on one core, and the latency that it adds.

    python loadtest/bench_router.py [--seconds 4] [--workers 4] [--json OUT]

A real router process, real sockets, simulated workers that take no time, Redis. Clients and workers share
one process, so on a machine of two cores the router has the other. What it used is read from /proc, so the
figures "per core" hold also where the machine is busy with other things; the rates that were reached are
beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from baton.core.types import Request, SamplingParams
from baton.openai import Endpoint, Shape
from baton.protocol.placed import Placed, encode
from baton.router.relay.attempt import head_of
from baton.router.wire import Origin, Pool
from baton.state import EmbeddedRedis
from baton.testing.simulated import Peers, SimulatedSettings, SimulatedWorker, Timing
from baton.tiny import model_path

TICKS = os.sysconf("SC_CLK_TCK")
CHAT = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "What is a prefill pod, and why would anybody want one?"}],
    "temperature": 0,
}


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def chat(stream: bool, tokens: int) -> bytes:
    body = json.dumps({**CHAT, "max_tokens": tokens, "stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: router\r\ncontent-type: application/json\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def placed(origin: Origin, stream: bool, tokens: int) -> bytes:
    shape = Shape(endpoint=Endpoint.CHAT, id="direct", model="tiny", created=0, stream=stream)
    request = Request(
        id="direct-0", token_ids=tuple(range(40)), identities=(b"0" * 16, b"1" * 16),
        sampling=SamplingParams(max_tokens=tokens, temperature=0.0),
    )  # fmt: skip
    body = encode(Placed(id="direct", shape=shape, requests=(request,), texts=(None,), prefill=()))
    return head_of(origin, "direct", 60.0, len(body)) + body


async def ask(pool: Pool, origin: Origin, message: bytes) -> int:
    """Events of one answer."""
    async with pool.lend(origin) as connection:
        head = await connection.ask(message)
        assert head.status == 200, (head, await connection.read_all(1 << 20))
        events = 0
        while data := await connection.read():
            events += data.count(b"\n\n")
        return events


async def closed(
    seconds: float, clients: int, once: Callable[[], Awaitable[int]]
) -> tuple[float, int, list[float]]:
    """So many clients, each with its next request when the last is answered: rate, events, latencies."""
    latencies: list[float] = []
    events = 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal events
        while time.perf_counter() < end:
            began = time.perf_counter()
            came = await once()
            events += came
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return len(latencies) / (time.perf_counter() - began), events, latencies


def spread(latencies: list[float]) -> dict[str, float]:
    cut = statistics.quantiles(latencies, n=100, method="inclusive")
    return {"p50_ms": round(cut[49] * 1000, 3), "p99_ms": round(cut[98] * 1000, 3)}


@asynccontextmanager
async def router(redis: str, *flags: str) -> AsyncIterator[tuple[Origin, int]]:
    command = [sys.executable, "-m", "baton.router", "--model.tokenizer", str(model_path())]
    command += ["--state.url", redis, "--http.host", "127.0.0.1", "--http.port", "0", *flags]
    log = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stderr=log)
    assert process.stderr is not None
    port = 0
    while not port:
        port = json.loads(await process.stderr.readline()).get("port", 0)

    async def drop() -> None:
        assert process.stderr is not None
        while await process.stderr.read(1 << 16):
            pass

    dropping = asyncio.create_task(drop())
    try:
        yield Origin("127.0.0.1", port), process.pid
    finally:
        process.terminate()
        await process.wait()
        dropping.cancel()


async def open_load(seconds: float, rate: float, once: Callable[[], Awaitable[int]]) -> list[float]:
    """Requests at random moments, whether or not the ones before are answered: their latencies."""
    chance, latencies, asking = random.Random(1), list[float](), set[asyncio.Task[None]]()

    async def one() -> None:
        began = time.perf_counter()
        await once()
        latencies.append(time.perf_counter() - began)

    began = at = time.perf_counter()
    while at < began + seconds:
        at += chance.expovariate(rate)
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        task = asyncio.create_task(one())
        asking.add(task)
        task.add_done_callback(asking.discard)
    await asyncio.gather(*asking)
    return latencies


def _cost(run: dict[str, Any]) -> float:
    return float(run["core_us_per_request"] or run["p50_ms"])


class Bench:
    """One router over its workers, and what was measured."""

    def __init__(
        self, pid: int, router: Origin, worker: Origin, pool: Pool, args: argparse.Namespace
    ) -> None:
        self.pid, self.router, self.worker, self.pool = pid, router, worker, pool
        self.seconds, self.repeat = args.seconds, args.repeat
        self.results: list[dict[str, Any]] = []

    async def full(self, what: str, clients: int, stream: bool, tokens: int) -> float:
        """As much as so many clients ask; what a core of the router would do. Of several runs the one that
        cost least: other work on the machine only ever adds."""
        near, far = placed(self.worker, stream, tokens), chat(stream, tokens)
        told: dict[str, Any] = {"what": what, "clients": clients}
        for name, origin, message in (("direct", self.worker, near), ("router", self.router, far)):
            once = partial(ask, self.pool, origin, message)
            await closed(0.3, min(clients, 8), once)
            told[name] = min([await self._run(clients, once, stream) for _ in range(self.repeat)], key=_cost)
        del told["direct"]["core_us_per_request"]
        self._note(told)
        return 1e6 / float(told["router"]["core_us_per_request"])

    async def _run(self, clients: int, once: Callable[[], Awaitable[int]], stream: bool) -> dict[str, Any]:
        used = cpu_s(self.pid)
        rate, events, latencies = await closed(self.seconds, clients, once)
        used = (cpu_s(self.pid) - used) / len(latencies)
        told = {"requests_per_s": round(rate, 1), **spread(latencies)}
        told["core_us_per_request"] = round(used * 1e6)
        if stream:
            each = events / len(latencies)
            told |= {"chunks_per_s": round(each * rate), "core_us_per_chunk": round(used / each * 1e6, 1)}
        return told

    async def added(self, rate: float) -> None:
        """What a request waits more than if it went to the worker, at an open load of so many a second."""
        told: dict[str, Any] = {"what": "short, whole, open load", "requests_per_s": round(rate)}
        for name, origin, message in (
            ("direct", self.worker, placed(self.worker, False, 8)),
            ("router", self.router, chat(False, 8)),
        ):
            told[name] = spread(await open_load(self.seconds, rate, partial(ask, self.pool, origin, message)))
        told["added_p50_ms"] = round(told["router"]["p50_ms"] - told["direct"]["p50_ms"], 3)
        told["added_p99_ms"] = round(told["router"]["p99_ms"] - told["direct"]["p99_ms"], 3)
        self._note(told)

    async def memory(self, requests: int) -> None:
        """Whether it grows with the requests served."""
        sizes = [memory_mb(self.pid)]
        for _ in range(4):
            await self._many(iter(range(requests // 4)))
            sizes.append(memory_mb(self.pid))
        self._note({"what": "memory", "requests": requests, "mb": [round(size, 1) for size in sizes]})

    async def _many(self, left: Iterator[int]) -> None:
        async def client() -> None:
            for _ in left:
                await ask(self.pool, self.router, chat(False, 4))

        await asyncio.gather(*(client() for _ in range(32)))

    def _note(self, told: dict[str, Any]) -> None:
        self.results.append(told)
        print(json.dumps(told), flush=True)


async def bench(args: argparse.Namespace, step_ms: float) -> list[dict[str, Any]]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(EmbeddedRedis())
        peers, workers = Peers(), []
        for number in range(args.workers):
            timing = Timing(step_s=step_ms / 1000)
            settings = SimulatedSettings(id=f"w{number}", state_url=redis.url, timing=timing, pages=1 << 20)
            workers.append(await stack.enter_async_context(SimulatedWorker(settings, peers)))
        pool = Pool()
        stack.callback(pool.close)
        origin, pid = await stack.enter_async_context(router(redis.url))
        await asyncio.sleep(1.0)
        one = Bench(pid, origin, Origin("127.0.0.1", workers[0].port), pool, args)
        if step_ms:
            await one.full(f"streams, a chunk each {step_ms:g} ms", args.streams, True, args.tokens)
            return one.results
        await one.full("short, whole", 1, False, 8)
        capacity = await one.full("short, whole", 32, False, 8)
        await one.added(min(capacity / 2, args.most_rate))
        await one.full("streams, as fast as they are read", 1, True, args.tokens)
        await one.full("streams, as fast as they are read", 64, True, args.tokens)
        if args.requests:
            await one.memory(args.requests)
        return one.results


async def main(args: argparse.Namespace) -> None:
    results = [*await bench(args, 0.0), *await bench(args, args.step_ms)]
    if args.json:
        facts = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()}
        Path(args.json).write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each, of which the best counts")
    parser.add_argument("--workers", type=int, default=4, help="simulated workers")
    parser.add_argument("--tokens", type=int, default=200, help="of each stream")
    parser.add_argument("--step-ms", type=float, default=20.0, help="a decode step of paced streams")
    parser.add_argument("--streams", type=int, default=150, help="paced ones at the same time")
    parser.add_argument("--most-rate", type=float, default=1000.0, help="of the open load, a second")
    parser.add_argument("--requests", type=int, default=0, help="to watch memory over; 0 leaves that out")
    parser.add_argument("--json", help="write the results there")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
