"""Compiles clients' grammars in a process of its own, before anybody serves by them.

Some take minutes or all memory to compile, or even to say what is wrong with them. That process ends itself
over such a grammar, and another is started for the next. Answers are kept: clients ask the same many times.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import OrderedDict
from hashlib import blake2b

from baton.core.errors import InvalidField, Refused, WorkerDied
from baton.grammar.child import CHECK_S, frame

START_S = 60.0
"""For the process to read the tokenizer."""
SLACK_S = 3.0
"""The process is killed from here when it has not ended itself by then: it counts what it computes."""
TURN_S = 10.0
"""How long a grammar may wait for those before it."""
KNOWN = 4096
"""Grammars of which is remembered whether they are right."""
TOO_MUCH = f"takes more than {CHECK_S:g} s or too much memory to compile; make it smaller"


class Checker:
    """Starts its process when it is first asked. `async with`."""

    def __init__(self, tokenizer: str, turn_s: float = TURN_S) -> None:
        """Where the tokenizer's files are, for the process to read, and how long a grammar may wait for those
        before it once it has."""
        self._tokenizer = tokenizer
        self._turn_s = turn_s
        self._process: Process | None = None
        self._ready = False
        """It has read the tokenizer."""
        self._turn = asyncio.Lock()
        self._known: OrderedDict[bytes, str] = OrderedDict()
        """By digest, what is wrong with a grammar; empty for nothing."""
        self._asked: dict[bytes, asyncio.Task[str]] = {}
        """Under way. Whoever asked may leave: the process answers, and is not started anew for it."""
        self._ended: set[bytes] = set()
        """Over which a process ended. Only when another does, it is the grammar's fault for good."""

    async def __aenter__(self) -> Checker:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._asked.values():
            task.cancel()
        await asyncio.gather(*self._asked.values(), return_exceptions=True)
        await self._end()

    async def check(self, grammar: str, field: str) -> None:
        """InvalidField, of the field that it came in, for a grammar that cannot be followed."""
        digest = blake2b(grammar.encode(errors="replace"), digest_size=16).digest()
        wrong = self._known.get(digest)
        if wrong is None:
            task = self._asked.get(digest)
            if task is None:
                task = self._asked[digest] = asyncio.create_task(self._ask(grammar, digest))
                task.add_done_callback(lambda done: self._asked.pop(digest, None))
                task.add_done_callback(lambda done: done.cancelled() or done.exception())
            wrong = await asyncio.shield(task)
        else:
            self._known.move_to_end(digest)
        if wrong:
            raise InvalidField(field, wrong)

    async def _ask(self, grammar: str, digest: bytes) -> str:
        try:
            async with asyncio.timeout(self._turn_s if self._ready else self._turn_s + START_S):
                await self._turn.acquire()
        except TimeoutError:
            raise Refused("too many new grammars are being compiled; try again") from None
        try:
            wrong = await self._answer(grammar)
        except BaseException:  # its answer may come yet, and would be taken for that to another question
            await self._end()
            raise
        finally:
            self._turn.release()
        if wrong == TOO_MUCH and digest not in self._ended:
            if len(self._ended) >= KNOWN:
                self._ended.clear()
            self._ended.add(digest)
            return wrong
        self._ended.discard(digest)
        self._known[digest] = wrong
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
        return wrong

    async def _answer(self, grammar: str) -> str:
        process = await self._started()
        assert process.stdin is not None and process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(CHECK_S + SLACK_S):
                process.stdin.write(frame(grammar))
                await process.stdin.drain()
                line = await process.stdout.readline()
        if not line.endswith(b"\n"):
            await self._end()
            return TOO_MUCH
        told: str = json.loads(line)
        return told

    async def _started(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._ready = False
        words = [sys.executable, "-m", "baton.grammar.child", self._tokenizer]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = await asyncio.create_subprocess_exec(*words, stdin=PIPE, stdout=PIPE, env=environ)
        assert self._process.stdout is not None
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_S):
                line = await self._process.stdout.readline()
        if not line:
            await self._end()
            raise WorkerDied("the process that compiles grammars does not start; its log says why")
        self._ready = True
        return self._process

    async def _end(self) -> None:
        process, self._process, self._ready = self._process, None, False
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
