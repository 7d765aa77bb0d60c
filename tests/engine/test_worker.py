"""A worker's processes: whoever dies, everybody is told, nobody stays behind, and nothing hangs."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import zmq
import zmq.asyncio
from tests.checkpoints import Make

from baton.core.errors import Misconfigured, ProtocolMismatch, WorkerDied
from baton.core.types import Request, SamplingParams
from baton.engine.config import EngineConfig
from baton.engine.worker import Worker
from baton.protocol import engine as wire
from baton.tiny import model_path

LONG = SamplingParams(max_tokens=4000, ignore_eos=True)


def config(**settings: object) -> EngineConfig:
    made = {"model": str(model_path()), "pages": 600, "max_model_len": 4096, "max_running": 8, "threads": 1}
    return EngineConfig(**{**made, **settings})  # type: ignore[arg-type]


def request(id: str, sampling: SamplingParams = LONG) -> Request:
    return Request(id=id, token_ids=(5, 6, 7), sampling=sampling)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone_within(pids: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, pids))


def run(work: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 100))


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_ends_every_request_and_every_other_rank(victim: int) -> None:
    async def work() -> None:
        updates: dict[str, list[wire.Update]] = {f"r{i}": [] for i in range(12)}
        async with Worker(config(tensor_parallel=2)) as worker:
            assert worker.facts is not None and worker.facts.all_reduce == "gloo"
            pids = [process.pid for process in worker._processes]
            for id, taken in updates.items():  # more than the pool has room for: some wait in the queue
                worker.submit(request(id), taken.append)
            await until(lambda: sum(map(bool, updates.values())) >= 3)
            assert not worker.failed.is_set() and worker.open == 12
            os.kill(pids[victim], signal.SIGKILL)
            await asyncio.wait_for(worker.failed.wait(), 5)
            for id, taken in updates.items():
                assert (taken[-1].finish, taken[-1].code) == ("error", WorkerDied.code), id
                assert f"engine rank {victim}" in (taken[-1].error or "") and "SIGKILL" in taken[-1].error
                assert all(update.finish is None for update in taken[:-1])
            assert worker.open == 0 and isinstance(worker.failure, WorkerDied)
            with pytest.raises(WorkerDied, match="SIGKILL"):
                worker.submit(request("late"), lambda update: None)
            worker.abort("r0")
            assert await asyncio.to_thread(gone_within, pids, 5.0)
            directory = worker._directory
        assert not directory.exists()

    run(work)


def test_a_sink_that_raises_ends_the_worker_instead_of_leaving_everybody_waiting() -> None:
    async def work() -> None:
        def broken(update: wire.Update) -> None:
            if update.finish is None:
                raise ValueError("a mistake of ours")

        others: list[wire.Update] = []
        async with Worker(config()) as worker:
            worker.submit(request("a"), others.append)
            worker.submit(request("b"), broken)
            await asyncio.wait_for(worker.failed.wait(), 20)
            assert "a mistake of ours" in str(worker.failure)
            assert others[-1].code == WorkerDied.code

    run(work)


def test_closing_ends_open_requests_once_and_leaves_nothing() -> None:
    async def work() -> None:
        updates: list[wire.Update] = []
        worker = Worker(config())
        await worker.start()
        assert worker.facts is not None and worker.facts.page_size == 16
        worker.submit(request("a"), updates.append)
        await until(lambda: len(updates) > 3)
        pids = [process.pid for process in worker._processes]
        began = time.monotonic()
        await worker.close()
        assert time.monotonic() - began < 5, "a busy engine listens when it is told to stop"
        assert not any(map(alive, pids)) and not worker._directory.exists()
        assert [u.code for u in updates if u.finish is not None] == [WorkerDied.code]
        await worker.close()
        assert not worker.failed.is_set(), "closing is no failure"

    run(work)


def test_a_finished_request_is_forgotten_and_an_aborted_one_silent() -> None:
    async def work() -> None:
        async with Worker(config()) as worker:
            short: list[wire.Update] = []
            long: list[wire.Update] = []
            worker.submit(request("long"), long.append)
            await until(lambda: len(long) > 2)
            worker.abort("long")
            count = len(long)
            worker.submit(request("short", SamplingParams(max_tokens=30, ignore_eos=True)), short.append)
            await until(lambda: bool(short) and short[-1].finish is not None)
            assert len([u for u in short if u.token is not None]) == 30 and short[-1].finish == "length"
            assert len(long) == count and worker.open == 0
            worker.abort("short")
            worker.abort("never asked for")
            assert worker.load is not None and worker.load.running == 0
            worker.submit(request("short"), short.append)  # a name may be used again
            await until(lambda: len(short) > 32)

    run(work)


def test_leaving_while_it_starts_leaves_nothing() -> None:
    async def work() -> None:
        worker = Worker(config())
        starting = asyncio.create_task(worker.__aenter__())
        await until(lambda: bool(worker._processes))
        await asyncio.sleep(0.3)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert not any(alive(process.pid) for process in worker._processes)
        assert not worker._directory.exists()

    run(work)


def test_what_keeps_a_rank_from_starting_is_raised_and_nothing_stays(checkpoint: Make) -> None:
    async def work() -> None:
        worker = Worker(config(model=str(checkpoint("qwen3").directory), tensor_parallel=2))
        with pytest.raises(Misconfigured, match="max_model_len: is 4096; the model's limit is 256"):
            await worker.start()
        with pytest.raises(Misconfigured):
            worker.submit(request("a"), lambda update: None)
        await worker.close()
        assert not any(alive(process.pid) for process in worker._processes)

    run(work)


def test_a_rank_of_another_version_is_refused() -> None:
    async def work() -> None:
        worker = Worker(config())
        starting = asyncio.create_task(worker.start())
        await until(lambda: bool(worker._processes))
        facts = wire.EngineFacts(
            pages=1, page_size=1, page_bytes=1, max_model_len=1, vocab=1, eos=(), device="cpu", dtype="",
            seconds=0, attention="", tensor_parallel=1, fingerprint=b"",
        )  # fmt: skip
        context = zmq.asyncio.Context()
        stranger = context.socket(zmq.PUSH)
        stranger.connect(f"ipc://{worker._directory}/front")
        await stranger.send(wire.encode(wire.Ready(wire.VERSION + 1, facts)))
        with pytest.raises(ProtocolMismatch, match=f"speaks version {wire.VERSION + 1}"):
            await starting
        assert worker.failed.is_set()
        await worker.close()
        assert not any(alive(process.pid) for process in worker._processes)
        context.destroy(linger=0)

    run(work)


def test_a_message_that_cannot_be_read_ends_the_worker() -> None:
    async def work() -> None:
        async with Worker(config()) as worker:
            updates: list[wire.Update] = []
            worker.submit(request("a"), updates.append)
            await until(lambda: bool(updates))
            await worker._to_engine.send(b"\xc1 no message")
            await asyncio.wait_for(worker.failed.wait(), 5)
            assert updates[-1].code == ProtocolMismatch.code and "rank 0" in (updates[-1].error or "")

    run(work)


def test_pages_are_told_before_the_engine_rests() -> None:
    async def work() -> None:
        async with Worker(config()) as worker:
            told: list[wire.Pages] = []
            waits = []
            worker.watch_pages(told.append)
            await until(lambda: bool(told))
            assert told[0].anew and not told[0].stored
            for number in range(5):
                done: list[wire.Update] = []
                prompt = tuple(range(40 * number, 40 * number + 40))
                params = SamplingParams(max_tokens=10, ignore_eos=True)
                worker.submit(Request(id=f"r{number}", token_ids=prompt, sampling=params), done.append)
                await until(lambda done=done: bool(done) and done[-1].finish is not None)  # type: ignore[misc]
                began, pages = time.monotonic(), 3 * (number + 1)  # 49 tokens with KV: three full pages
                await until(lambda pages=pages: sum(len(one.stored) for one in told) >= pages * 16)  # type: ignore[misc]
                waits.append(time.monotonic() - began)
            assert sorted(waits)[2] < 0.4, "they waited for the next message"

    run(work)


def start_front(ranks: int) -> tuple[subprocess.Popen[str], list[int]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    front = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("front.py")), str(model_path()), str(ranks)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True,
    )  # fmt: skip
    assert front.stdout is not None
    return front, [int(pid) for pid in front.stdout.readline().split()]


def test_ranks_end_soon_after_their_front_is_killed() -> None:
    front, pids = start_front(ranks=2)
    with front:
        assert len(pids) == 2 and all(map(alive, pids))
        time.sleep(0.3)  # in the middle of generating
        front.kill()
        assert gone_within(pids, 5.0)


def test_ctrl_c_ends_front_and_ranks_in_order() -> None:
    front, pids = start_front(ranks=1)
    with front:
        assert len(pids) == 1
        time.sleep(0.3)
        os.killpg(front.pid, signal.SIGINT)  # as a terminal does, to the whole group
        _, said = front.communicate(timeout=15)
    assert front.returncode in (130, -signal.SIGINT)
    assert gone_within(pids, 1.0)
    assert said.strip().endswith("KeyboardInterrupt") and "never retrieved" not in said
    assert "rank 0" not in said, "a rank was interrupted instead of being told to stop"
