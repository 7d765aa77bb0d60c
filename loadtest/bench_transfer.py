"""How long a hand-over takes: pages of one process's pool written into, and read from, another's.

    python loadtest/bench_transfer.py                    two processes, pools in host memory
    python loadtest/bench_transfer.py --device cuda      GPU 0 to GPU 1, pools of fabric memory if possible
    python loadtest/bench_transfer.py --device cuda --memory ordinary
    python loadtest/bench_transfer.py --device cuda --apart --visible own      as two pods see each other

Pages have the shape of Qwen3-8B (16 tokens, 2.36 MB). For each count of pages, scattered and in one
run, it prints medians of: make, post and done of a bare transfer (done counts from the making on), and
through two movers the time from giving the order to `Moved` here and to `Landed` there. `--json` keeps
every sample. `--apart` puts the far process into PID and IPC namespaces of its own; that needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from queue import SimpleQueue
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parent.parent / root) for root in ("services", "shared")]

from baton.transfer import Agent, Landed, Limits, Moved, Mover, PoolLayout, Pull, Push, Span, allocate, vmm
from baton.transfer.layout import Indices, cut, in_runs
from baton.transfer.memory import PoolMemory

QWEN3_8B = {"layers": 36, "kv_heads": 8, "head_dim": 128, "page_size": 16, "dtype": "bfloat16"}
WAIT_S = 60.0


@dataclass(frozen=True)
class Case:
    pages: int
    scattered: bool
    push: bool

    def __str__(self) -> str:
        word = "WRITE" if self.push else "READ"
        return f"{word:5} {self.pages:4} {'scattered' if self.scattered else 'one run'}"


def _no_driver() -> vmm.Cuda:
    raise vmm.Refused("fabric memory", -1, "not wanted")


class End:
    """One process's pool, agent and, in a second agent over the same pool, mover."""

    def __init__(self, arguments: argparse.Namespace, device: str) -> None:
        self.layout = PoolLayout(
            pages=arguments.pool, total_kv_heads=QWEN3_8B["kv_heads"], model="bench", **QWEN3_8B
        )
        driver = _no_driver if arguments.memory == "ordinary" else vmm.Driver
        self.memory: PoolMemory = allocate(self.layout.bytes, device, driver=driver)
        self.pages = self.memory.tensor.view(self.layout.pages, self.layout.page_bytes)
        self.agent = Agent(self.layout, self.memory.region, progress_us=arguments.progress_us)
        self.reports: SimpleQueue[tuple[float, Any]] = SimpleQueue()
        moving = Agent(self.layout, self.memory.region, progress_us=arguments.progress_us)
        self.moving = moving.info()
        limits = Limits(window=arguments.window, part_descriptors=arguments.part)
        self.mover = Mover(moving, lambda report: self.reports.put((time.monotonic(), report)), limits=limits)
        self.mover.start()

    def paint(self, offset: int) -> None:
        for page in range(self.layout.pages):
            self.pages[page].fill_((page * 7 + offset) % 251)
        self.settle()

    def settle(self) -> None:
        if self.memory.tensor.is_cuda:
            import torch

            torch.cuda.synchronize()

    def wait(self, kind: type, attempt: str) -> float:
        """When the report came, on the host's clock, which all its processes share."""
        while True:
            at, report = self.reports.get(timeout=WAIT_S)
            if isinstance(report, kind) and report.attempt == attempt:
                return at


def far(arguments: argparse.Namespace) -> None:
    """The other process: answers until the pipe closes."""
    end = End(arguments, arguments.far_device)
    with Client(arguments.far, authkey=bytes.fromhex(os.environ["BENCH_KEY"])) as pipe:
        pipe.send((end.agent.info(), end.moving, end.memory.region.kind.value, end.memory.fallback))
        while True:
            try:
                word, value = pipe.recv()
            except EOFError:
                break
            if word == "paint":
                pipe.send(end.paint(value))
            elif word == "colours":
                pipe.send([(int(end.pages[p].min()), int(end.pages[p].max())) for p in value])
            elif word == "expect":
                attempt, sender = value
                pipe.send(end.mover.expect(attempt, {sender: 0}, WAIT_S))
            elif word == "landed":
                pipe.send(end.wait(Landed, value))
    end.mover.close()
    end.agent.close()


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    for push in (True, False):
        for scattered in (True, False):
            for pages in arguments.pages:
                if pages < arguments.pool:
                    yield Case(pages, scattered, push)


def choose(case: Case, pool: int, rng: random.Random) -> tuple[Indices, Indices]:
    if case.scattered:
        local, remote = (rng.sample(range(1, pool), case.pages) for _ in range(2))
    else:
        local, remote = (list(range(s, s + case.pages)) for s in (1, pool - case.pages))
    return in_runs(local, remote)


class Bench:
    def __init__(self, arguments: argparse.Namespace, end: End, pipe: Connection) -> None:
        self.arguments = arguments
        self.end = end
        self.pipe = pipe
        self.bare, self.moving, kind, fallback = pipe.recv()
        self.memory = f"{end.memory.region.kind.value} here, {kind} there"
        self.fallback = end.memory.fallback or fallback
        self.span = Span(0, 0, end.layout.kv_heads)
        self.rng = random.Random(0)

    def ask(self, word: str, value: Any) -> Any:
        self.pipe.send((word, value))
        return self.pipe.recv()

    def run(self) -> dict[str, Any]:
        end, arguments = self.end, self.arguments
        end.agent.add_peer(self.bare)
        verdict = end.mover.add_peer(self.moving).result(WAIT_S)
        print(f"memory: {self.memory} {self.fallback}\n{verdict.message}\n", flush=True)
        heads = (
            "op    pages pattern",
            "descs",
            "MB",
            "make us",
            "post us",
            "done us",
            "GB/s",
            "moved us",
            "GB/s",
        )
        print("{:21} {:>5} {:>7} {:>8} {:>8} {:>9} {:>6} {:>9} {:>6} {:>9}".format(*heads, "landed us"))
        rows = []
        for case in cases(arguments):
            self.check(case)
            bare = [self.bare_once(case) for _ in range(arguments.repeats + 3)][3:]
            through = [self.through_movers(case, n) for n in range(arguments.repeats + 3)][3:]
            rows.append(self.row(case, bare, through))
        return {
            "arguments": {name: str(value) for name, value in vars(arguments).items()},
            "memory": self.memory,
            "fallback": self.fallback,
            "verdict": verdict.message,
            "page_bytes": end.layout.page_bytes,
            "rows": rows,
        }

    def row(
        self, case: Case, bare: list[tuple[float, ...]], through: list[tuple[float, ...]]
    ) -> dict[str, Any]:
        local, remote = choose(case, self.end.layout.pages, random.Random(1))
        parts = cut(local, remote, whole=True, page_bytes=1, descriptors=1, part_bytes=1 << 40)
        size = case.pages * self.end.layout.page_bytes
        make, post, done = (statistics.median(column) for column in zip(*bare, strict=True))
        moved, landed = (statistics.median(column) for column in zip(*through, strict=True))
        print(
            f"{case!s:21} {len(parts):5} {size / 1e6:7.0f} {make * 1e6:8.0f} {post * 1e6:8.0f} "
            f"{done * 1e6:9.0f} {size / done / 1e9:6.1f} {moved * 1e6:9.0f} {size / moved / 1e9:6.1f} "
            f"{landed * 1e6:9.0f}",
            flush=True,
        )
        return {
            "op": "WRITE" if case.push else "READ",
            "pages": case.pages,
            "scattered": case.scattered,
            "descriptors": len(parts),
            "bytes": size,
            "median": {"make": make, "post": post, "done": done, "moved": moved, "landed": landed},
            "samples": {"bare": bare, "through_movers": through},
        }

    def bare_once(self, case: Case) -> tuple[float, float, float]:
        agent = self.end.agent
        local, remote = choose(case, self.end.layout.pages, self.rng)
        begin = time.perf_counter()
        transfer = agent.make(case.push, self.bare.incarnation, self.span, local, remote)
        made = time.perf_counter()
        agent.start(transfer)
        posted = time.perf_counter()
        while not agent.poll(transfer):
            pass
        done = time.perf_counter()
        return made - begin, posted - made, done - begin

    def through_movers(self, case: Case, number: int) -> tuple[float, float]:
        end = self.end
        attempt = f"{case}-{number}"
        local, remote = choose(case, end.layout.pages, self.rng)
        if case.push:
            self.ask("expect", (attempt, end.moving.incarnation))
        made = Push if case.push else Pull
        order = made(
            attempt=attempt,
            chunk=0,
            last=True,
            peer=self.moving.incarnation,
            span=self.span,
            local_pages=local.tolist(),
            remote_pages=remote.tolist(),
            timeout_s=WAIT_S,
        )
        begin = time.monotonic()
        end.mover.move(order)
        moved = end.wait(Moved, attempt) - begin
        return moved, self.ask("landed", attempt) - begin if case.push else 0.0

    def check(self, case: Case) -> None:
        """The bytes are right: painted pages arrive with their colours."""
        local, remote = choose(case, self.end.layout.pages, self.rng)
        self.end.paint(3)
        self.ask("paint", 100)
        transfer = self.end.agent.post(case.push, self.bare.incarnation, self.span, local, remote)
        while not self.end.agent.poll(transfer):
            pass
        some = slice(0, 8)
        if case.push:
            colours = self.ask("colours", remote[some].tolist())
            wanted = [(page * 7 + 3) % 251 for page in local[some].tolist()]
        else:
            self.end.settle()
            colours = [(int(self.end.pages[p].min()), int(self.end.pages[p].max())) for p in local[some]]
            wanted = [(page * 7 + 100) % 251 for page in remote[some].tolist()]
        assert colours == [(colour, colour) for colour in wanted], f"{case}: wrong bytes"


def near(arguments: argparse.Namespace) -> None:
    own = arguments.device == "cuda" and arguments.visible == "own"
    devices = {"cpu": ("cpu", "cpu"), "cuda": ("cuda:0", "cuda:0" if own else "cuda:1")}[arguments.device]
    key = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/pipe"
        command = [sys.executable, __file__, *sys.argv[1:], "--far", address, "--far-device", devices[1]]
        if arguments.apart:
            command = ["unshare", "--pid", "--ipc", "--fork", "--kill-child", *command]
        environment = os.environ | {"BENCH_KEY": key} | ({"CUDA_VISIBLE_DEVICES": "1"} if own else {})
        if own:
            os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        with Listener(address, authkey=bytes.fromhex(key)) as listener:
            process = subprocess.Popen(command, env=environment)
            try:
                end = End(arguments, devices[0])
                with listener.accept() as pipe:
                    result = Bench(arguments, end, pipe).run()
                end.mover.close()
                end.agent.close()
                process.wait(WAIT_S)
            finally:
                process.kill()
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory", choices=("fabric", "ordinary"), default="fabric", help="of GPUs")
    parser.add_argument("--pages", type=int, nargs="+", default=[8, 32, 128, 438])
    parser.add_argument("--pool", type=int, default=1024, help="pages of each pool")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--window", type=int, default=Limits().window, help="parts in flight")
    parser.add_argument("--part", type=int, default=Limits().part_descriptors, help="descriptors of a part")
    parser.add_argument("--apart", action="store_true", help="PID and IPC namespaces apart")
    parser.add_argument("--visible", choices=("both", "own"), default="both", help="GPUs each process sees")
    parser.add_argument("--progress-us", type=int, default=5000, help="of NIXL's own thread; 0 spins")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--far", help=argparse.SUPPRESS)
    parser.add_argument("--far-device", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    far(arguments) if arguments.far else near(arguments)


if __name__ == "__main__":
    main()
