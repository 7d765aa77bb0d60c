"""Grammars are compiled by a process that nobody minds losing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from baton.core.errors import InvalidField, WorkerDied
from baton.grammar import forms
from baton.grammar.checker import Checker
from baton.tiny import model_path

FINE = forms.json_schema({"type": "object", "properties": {"a": {"type": "integer"}}})
SLOW = forms.json_schema({"type": "integer", "multipleOf": 99_999_989})
ENDLESS = forms.json_schema({"allOf": [{"type": "string", "pattern": f"a{n}.*b"} for n in range(60)]})
"""Not to compile: to say why that cannot be done."""


def checked(work: Callable[[Checker], Awaitable[None]], source: object = None) -> None:
    async def run() -> None:
        async with Checker(str(source or model_path())) as checker:
            await work(checker)
            ended = checker._process
        assert ended is None or ended.returncode is not None, "it left its process behind"

    asyncio.run(asyncio.wait_for(run(), 60))


async def wrong(checker: Checker, grammar: str) -> str:
    with pytest.raises(InvalidField) as caught:
        await checker.check(grammar, "the.field")
    assert caught.value.field == "the.field"
    return str(caught.value)


@pytest.mark.parametrize(
    ("grammar", "says"),
    [
        (forms.json_schema({"type": "strin"}), "Invalid type: strin"),
        (forms.json_schema({"not": {}}), "Unimplemented"),
        (forms.json_schema({"$ref": "http://host/schema"}), "Default retriever does not fetch"),
        (forms.json_schema({"minimum": 10**400, "type": "integer"}), "number out of range"),
        (forms.json_schema({"enum": ["\ud800"]}), "end of hex escape"),
        (forms.json_schema(json.loads('{"items":' * 300 + "{}" + "}" * 300)), "recursion limit"),
        (forms.regex("[0-9"), "unclosed character class"),
        (forms.regex("(?=a)b"), "look-around"),
        (forms.ebnf("start: rule"), "rule"),
    ],
)
def test_what_cannot_be_compiled_says_why(grammar: str, says: str) -> None:
    async def work(checker: Checker) -> None:
        assert re.search(says, await wrong(checker, grammar))
        await checker.check(FINE, "f")

    checked(work)


def test_many_that_are_large_are_no_fault_of_the_next() -> None:
    """Nothing is kept of any."""

    async def work(checker: Checker) -> None:
        for number in range(90):
            fields = {f"field{number}_{n}": {"type": "string"} for n in range(600)}
            await checker.check(forms.json_schema({"type": "object", "properties": fields}), "f")

    checked(work)


@pytest.mark.parametrize("grammar", [SLOW, ENDLESS], ids=["slow", "endless"])
def test_one_that_takes_too_long_ends_its_process_and_no_more(grammar: str) -> None:
    async def work(checker: Checker) -> None:
        for time in range(2):  # the first may have been a busy machine
            await checker.check(forms.choice([str(time)]), "f")
            process = checker._process or pytest.fail("it has answered")
            assert "takes more than 2 s or too much memory" in await wrong(checker, grammar)
            assert process.returncode is not None and checker._process is None
        assert "takes more than 2 s" in await wrong(checker, grammar)
        assert checker._process is None, "known: nobody was started to say so"
        await checker.check(forms.choice(["yes"]), "f")

    checked(work)


def test_many_ask_at_once() -> None:
    async def work(checker: Checker) -> None:
        await checker.check(FINE, "f")
        asked: list[Any] = [checker.check(forms.choice([str(n)]), "f") for n in range(40)]
        asked += [wrong(checker, forms.regex(f"[{n}")) for n in range(5)]
        await asyncio.gather(*asked)

    checked(work)


def test_who_asks_while_the_process_starts_waits_for_it() -> None:
    """Which takes longer than a turn is waited for, and is no fault of those who are behind."""

    async def run() -> None:
        async with Checker(str(model_path()), turn_s=0.05) as checker:
            asked = [asyncio.create_task(checker.check(forms.choice([str(n)]), "f")) for n in range(2)]
            while checker._process is None:
                await asyncio.sleep(0)
            asked += [asyncio.create_task(checker.check(forms.choice([str(n)]), "f")) for n in range(2, 4)]
            await asyncio.gather(*asked)

    asyncio.run(asyncio.wait_for(run(), 60))


def test_who_gives_up_leaves_no_answer_to_others() -> None:
    async def work(checker: Checker) -> None:
        await checker.check(FINE, "f")
        process = checker._process
        left = asyncio.create_task(checker.check(forms.choice([f"w{n}" for n in range(9000)]), "f"))
        await asyncio.sleep(0.01)
        left.cancel()
        await checker.check(forms.choice(["yes"]), "f")
        assert checker._process is process, "it was not ended for that"
        assert "unclosed" in await wrong(checker, forms.regex("("))

    checked(work)


def test_one_that_was_killed_is_started_again() -> None:
    async def work(checker: Checker) -> None:
        await checker.check(FINE, "f")
        assert checker._process is not None
        os.kill(checker._process.pid, signal.SIGKILL)
        await checker._process.wait()
        await checker.check(forms.choice(["yes"]), "f")

    checked(work)


def test_one_that_does_not_start_is_said(tmp_path: object, capfd: pytest.CaptureFixture[str]) -> None:
    async def work(checker: Checker) -> None:
        with pytest.raises(WorkerDied, match="does not start"):
            await checker.check(FINE, "f")

    checked(work, tmp_path)
