"""A worker's front half: starts one engine process per rank, feeds it requests and hands out news.

The front is asyncio and torch-free; the ranks are processes of their own. A rank that dies takes the
worker down: every open request gets a WorkerDied, the other ranks are killed, and `failed` is set
within moments, since their collectives would wait for the dead one for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import zmq
import zmq.asyncio

from baton.core.errors import BatonError, Misconfigured, ProtocolMismatch, WorkerDied
from baton.core.types import Finish, Request
from baton.engine.config import EngineConfig
from baton.engine.spec import RankLogs, RankSpec, encode
from baton.protocol import engine as wire

log = logging.getLogger("baton.worker")

Sink = Callable[[wire.Update], None]
"""Takes each update of one request, on the event loop; must not block."""
Progress = Callable[[str, float], None]


class Listener(Protocol):
    """Takes what concerns other workers, on the event loop; must not block."""

    def reserved(self, reservation: wire.Reservation) -> None: ...

    def ended(self, end: wire.LegEnd) -> None: ...

    def landed(self, attempt: str) -> None: ...

    def met(self, path: wire.Path) -> None: ...

    def lost(self, worker: str, reason: str) -> None: ...


class Reader(Protocol):
    """Takes what concerns prefixes read out of other workers and lent to them; as `Listener`."""

    def wanting(self, one: wire.Wanting) -> None: ...

    def fetched(self, one: wire.Fetched) -> None: ...

    def lent(self, one: wire.Lent) -> None: ...


STOP_SECONDS = 10.0
"""How long ranks may take to end when asked to, before they are killed."""
FAULT_SECONDS = 0.5
"""How long a rank's exit waits for the Fault that explains it."""
HEARSAY_SECONDS = 0.4
"""How long the word of a rank that lost another one waits for what became of that one."""


class Worker:
    """One engine's processes. Use as `async with Worker(config) as worker`."""

    def __init__(
        self, config: EngineConfig, progress: Progress | None = None, logs: RankLogs | None = None
    ) -> None:
        """`logs`: how the ranks log; without it they say warnings, as text."""
        self.config = config
        self.facts: wire.EngineFacts | None = None
        self.load: wire.Load | None = None
        """As of the last news; None before the first."""
        self.failed: asyncio.Event = asyncio.Event()
        self.failure: BatonError | None = None
        self._progress = progress
        self._logs = logs
        self.listener: Listener | None = None
        self._pages: Callable[[wire.Pages], None] = lambda pages: None
        self.reader: Reader | None = None
        self._sinks: dict[str, Sink] = {}
        self._processes: list[asyncio.subprocess.Process] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False

    async def __aenter__(self) -> Worker:
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    # ---- lifecycle ----

    async def start(self) -> None:
        """Start every rank and wait until the engine is ready; raises what kept it from it."""
        self._directory = Path(tempfile.mkdtemp(prefix="baton-"))

        def address(name: str) -> str:
            return f"ipc://{self._directory}/{name}"

        self._context = zmq.asyncio.Context()
        self._from_engine = self._context.socket(zmq.PULL)
        self._from_engine.bind(address("front"))
        self._to_engine = self._context.socket(zmq.PUSH)
        self._to_engine.setsockopt(zmq.LINGER, 0)
        self._to_engine.connect(address("rank0"))
        size = self.config.tensor_parallel
        followers = tuple(address(f"rank{rank}") for rank in range(1, size))
        self._ready: asyncio.Future[wire.EngineFacts] = asyncio.get_running_loop().create_future()
        for rank in range(size):
            spec = RankSpec(
                config=self.config, rank=rank, inbox=address("rank0"), outbox=address("front"),
                followers=followers, rendezvous=str(self._directory / "ranks"), logs=self._logs,
            )  # fmt: skip
            self._processes.append(await _spawn(spec))
        self._tasks = [asyncio.create_task(self._listen(), name="engine news")]
        self._tasks += [asyncio.create_task(self._watch(rank), name=f"rank {rank}") for rank in range(size)]
        self.facts = await self._ready

    async def close(self) -> None:
        """Stop the ranks, gently if they listen, and leave nothing behind. Idempotent."""
        if self._closing:
            return
        self._closing = True
        self._end_all(WorkerDied("the worker was closed"))
        if self._processes and self.failure is None and self.facts is not None:
            with contextlib.suppress(zmq.ZMQError):
                await self._to_engine.send(wire.encode(wire.Stop()))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS):
                    for process in self._processes:
                        await process.wait()
        await self._kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "_context"):
            self._context.destroy(linger=0)
            shutil.rmtree(self._directory, ignore_errors=True)

    async def _kill(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        for process in self._processes:
            await process.wait()

    # ---- requests ----

    def submit(
        self,
        request: Request,
        sink: Sink,
        prefer: Sequence[str] | None = None,
        lender: str = "",
        trace: str = "",
        deadline: float | None = None,
    ) -> None:
        """Hand a request to the engine; `sink` gets its updates, the last with `finish` set. `prefer`,
        `lender` and `trace` are for workers that have others to ask. `deadline`: by the monotonic clock."""
        self.open_with(wire.Submit(request, deadline), sink)

    def open_with(self, message: wire.Submit | wire.Ask | wire.RunLeg, sink: Sink) -> None:
        """As `submit`, for every message that begins a request."""
        if self.failure is not None:
            raise self.failure
        id = message.request.id
        assert id not in self._sinks, f"request {id} is open already"
        self._sinks[id] = sink
        self._send(message)

    def tell(self, message: wire.FromFront) -> None:
        """Say something about hand-overs to the engine; nothing happens when it has failed."""
        if self.failure is None:
            self._send(message)

    def watch_pages(self, take: Callable[[wire.Pages], None]) -> None:
        """From now on `take` hears what the prefix cache holds, all of it first, on the event loop."""
        self._pages = take
        self.tell(wire.Watch())

    def abort(self, id: str) -> None:
        """Stop work on a request; no update comes after this. Unknown ids are ignored."""
        if self._sinks.pop(id, None) is not None and self.failure is None:
            self._send(wire.Abort(id))

    @property
    def open(self) -> int:
        """Requests that have not finished."""
        return len(self._sinks)

    @property
    def ending(self) -> bool:
        """It has failed or is being closed: its ranks are being ended, and some may still live."""
        return self._closing or self.failure is not None

    @property
    def gone(self) -> bool:
        """None of its ranks lives: nothing that they had begun goes on."""
        return all(process.returncode is not None for process in self._processes)

    def _send(self, message: wire.Message) -> None:
        # A PUSH socket over ipc takes the message at once; the future is done when it returns.
        self._to_engine.send(wire.encode(message))

    # ---- what the ranks say ----

    async def _listen(self) -> None:
        while True:
            data = await self._from_engine.recv()
            try:
                self._take(wire.read_to_front(data))
            except BatonError as error:
                self._fail(error)
                return
            except Exception as error:
                log.exception("what the engine said was not taken")
                self._fail(WorkerDied(f"what the engine said was not taken: {error!r}"))
                return  # nobody listens any more: whoever waits must not wait for ever

    def _take(self, message: wire.ToFront) -> None:
        match message:
            case wire.News(updates=updates, load=load):
                self.load = load
                for update in updates:
                    sink = self._sinks.get(update.id)
                    if sink is not None:
                        if update.finish is not None:
                            del self._sinks[update.id]
                        sink(update)
                self._inform(message)
                self._inform_reader(message)
            case wire.Pages():
                self._pages(message)
            case wire.Loading(stage=stage, done=done):
                if self._progress is not None:
                    self._progress(stage, done)
            case wire.Ready(version=version, facts=facts):
                if version != wire.VERSION:
                    raise ProtocolMismatch(f"the engine speaks version {version}, this front {wire.VERSION}")
                self._ready.set_result(facts)
            case wire.Fault(rank=rank, code=code, message=text):
                kind = Misconfigured if not self._ready.done() and code != "internal_error" else WorkerDied
                error = kind(text if kind is Misconfigured else f"rank {rank}: {text}")
                error.code = code
                if code == WorkerDied.code:
                    asyncio.get_running_loop().call_later(HEARSAY_SECONDS, self._fail, error)
                else:
                    self._fail(error)

    def _inform(self, news: wire.News) -> None:
        listener = self.listener
        if listener is None:
            return
        for reservation in news.reserved:
            listener.reserved(reservation)
        for attempt in news.landed:
            listener.landed(attempt)
        for end in news.ended:
            listener.ended(end)
        for path in news.paths:
            listener.met(path)
        for lost in news.lost:
            listener.lost(*lost.split(" ", 1))

    def _inform_reader(self, news: wire.News) -> None:
        reader = self.reader
        if reader is None:
            return
        for wanting in news.wanting:
            reader.wanting(wanting)
        for fetched in news.fetched:
            reader.fetched(fetched)
        for lent in news.lent:
            reader.lent(lent)

    async def _watch(self, rank: int) -> None:
        status = await self._processes[rank].wait()
        if not self._closing:
            if status >= 0:  # who was killed had no time to explain
                await asyncio.sleep(FAULT_SECONDS)
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with {status}"
            self._fail(WorkerDied(f"engine rank {rank} (process {self._processes[rank].pid}) {how}"))

    def _fail(self, error: BatonError) -> None:
        """The first failure decides; everything open ends with it and no rank survives."""
        if self.failure is not None or self._closing:
            return
        self.failure = error
        log.error("the engine is gone: %s", error)
        for process in self._processes:
            if process.returncode is None:
                process.kill()
        if not self._ready.done():
            self._ready.set_exception(error)
        self._end_all(error)
        self.failed.set()

    def _end_all(self, error: BatonError) -> None:
        sinks, self._sinks = self._sinks, {}
        for id, sink in sinks.items():
            sink(wire.Update(id, finish=Finish.ERROR.value, error=str(error), code=error.code))

    def __repr__(self) -> str:
        state = "failed" if self.failure else "ready" if self.facts else "starting"
        return f"<Worker {self.config.model} {state}: {len(self._processes)} ranks, {self.open} open>"


async def _spawn(spec: RankSpec) -> asyncio.subprocess.Process:
    environment = dict(os.environ)
    # The child finds this very code, whether installed or run from a checkout.
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "baton.engine.process", stdin=asyncio.subprocess.PIPE, env=environment,
        start_new_session=True,  # Ctrl-C goes to the front, which stops the ranks in order
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write(encode(spec))
    await process.stdin.drain()
    return process
