"""What a router costs: requests and streamed chunks a second on one core, and the latency that it adds.

    python loadtest/bench_router.py [--seconds 4] [--workers 4] [--json OUT]

A real router process, real sockets, simulated workers that take no time, Redis. Clients and workers share one
process, so on a machine of two cores the router has the other. What it used is read from /proc, so the figures "per
core" hold also where the machine is busy with other things; the rates that were reached are beside them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from collections.abc import AsyncIterator
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
    seconds: float, clients: int, once: Callable[[int], Awaitable[int]]
) -> tuple[float, int, list[float]]:
    """So many clients, each with its next request when the last is answered: requests/s, events, latencies."""
    latencies: list[float] = []
    events = 0
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        nonlocal events
        while time.perf_counter() < end:
            began = time.perf_counter()
            came = await once(number)
            events += came
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
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


async def measure(
    name: str, seconds: float, clients: int, pid: int, once: Callable[[int], Awaitable[int]]
) -> dict[str, Any]:
    await closed(0.5, min(clients, 8), once)
    used = cpu_s(pid)
    rate, events, latencies = await closed(seconds, clients, once)
    used = cpu_s(pid) - used
    told: dict[str, Any] = {
        "what": name,
        "clients": clients,
        "requests_per_s": round(rate, 1),
        **spread(latencies),
    }
    if events:
        told["chunks_per_s"] = round(events / len(latencies) * rate)
    if used:
        told["router_us_per_request"] = round(used / len(latencies) * 1e6)
        told["requests_per_s_per_core"] = round(len(latencies) / used)
        if events:
            told["chunks_per_s_per_core"] = round(events / used)
    print(json.dumps(told), flush=True)
    return told


async def main(args: argparse.Namespace) -> None:
    results = []
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(EmbeddedRedis())
        peers, workers = Peers(), []
        for number in range(args.workers):
            timing = Timing(step_s=args.step_ms / 1000)
            settings = SimulatedSettings(id=f"w{number}", state_url=redis.url, timing=timing, pages=1 << 20)
            workers.append(await stack.enter_async_context(SimulatedWorker(settings, peers)))
        pool = Pool()
        stack.callback(pool.close)
        origin, pid = await stack.enter_async_context(router(redis.url))
        direct = Origin("127.0.0.1", workers[0].port)
        await asyncio.sleep(1.0)
        me = os.getpid()

        async def through(number: int, message: bytes) -> int:
            return await ask(pool, origin, message)

        for stream, tokens, many in ((False, 8, 32), (True, args.tokens, args.streams)):
            kind = f"stream of {tokens}" if stream else f"{tokens} tokens, whole"
            near, far = placed(direct, stream, tokens), chat(stream, tokens)
            for clients in (1, many):
                results.append(
                    await measure(
                        f"direct, {kind}", args.seconds, clients, me, lambda n: ask(pool, direct, near)
                    )
                )
                results.append(
                    await measure(
                        f"router, {kind}", args.seconds, clients, pid, lambda n: ask(pool, origin, far)
                    )
                )
        results.append({"memory_mb": round(memory_mb(pid), 1)})
        print(json.dumps(results[-1]))
    if args.json:
        facts = {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "machine": platform.processor(),
        }
        Path(args.json).write_text(json.dumps({"facts": facts, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--workers", type=int, default=4, help="simulated workers")
    parser.add_argument("--tokens", type=int, default=200, help="of each stream")
    parser.add_argument(
        "--step-ms", type=float, default=0.0, help="of a worker's decode step; 0 takes no time"
    )
    parser.add_argument("--streams", type=int, default=64, help="at the same time")
    parser.add_argument("--json", help="write the results there")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(parser.parse_args()))
