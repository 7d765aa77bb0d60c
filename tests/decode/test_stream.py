"""A generation between an engine and a client: what gathers, what ends it, what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.spawned import samples
from tests.tokens import checkpoints

from baton.core.errors import BatonError, Cancelled, DeadlineExceeded, QueueFull, WorkerDied
from baton.core.types import Finish, Request, TokenLogprob
from baton.decode.meters import Meters
from baton.decode.stream import Generation, events
from baton.decode.work import of_asked
from baton.engine.worker import Sink
from baton.openai import ServedModel, read_completion
from baton.protocol.engine import Course, EngineFacts, Load, Update
from baton.telemetry import Metrics
from baton.testing.clock import ManualClock

FACTS = EngineFacts(
    pages=8, page_size=16, page_bytes=1, max_model_len=100, vocab=512, eos=(502,), device="cpu",
    dtype="float32", attention="torch", tensor_parallel=1, fingerprint=b"f", seconds=0.0,
)  # fmt: skip


class Script:
    """A front whose engine says what a test has it say."""

    facts: EngineFacts | None = FACTS
    load: Load | None = None

    def __init__(self, model: ServedModel) -> None:
        self.failed = asyncio.Event()
        self.failure: BatonError | None = None
        self.sinks: dict[str, Sink] = {}
        self.requests: list[Request] = []
        self.model = model

    @property
    def open(self) -> int:
        return len(self.sinks)

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    def submit(
        self,
        request: Request,
        sink: Sink,
        prefer: Sequence[str] | None = None,
        lender: str = "",
        trace: str = "",
        deadline: float | None = None,
    ) -> None:
        if self.failure is not None and len(self.requests) == 1:
            raise self.failure
        self.requests.append(request)
        self.sinks[request.id] = sink

    def abort(self, id: str) -> None:
        self.sinks.pop(id, None)

    def say(self, place: int, text: str, finish: str | None = None, **more: Any) -> int:
        """A text, token by token, the last of which finishes. How many tokens that are."""
        tokens = self.model.tokenizer.encode(text)
        for token in tokens[:-1]:
            self.tell(place, token, **more)
        self.tell(place, tokens[-1], finish=finish, **more)
        return len(tokens)

    def tell(self, place: int, token: int | None, **more: Any) -> None:
        id = self.requests[place].id
        sink = self.sinks.get(id)
        if sink is not None:
            if more.get("finish") is not None:
                del self.sinks[id]
            sink(Update(id, token, **more))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    directory: Path = checkpoints.write(tmp_path_factory.mktemp("model"), "qwen")
    return ServedModel.load(directory, names=["m"], max_length=100, vocabulary=512)


class Played:
    """One generation over a script."""

    def __init__(self, model: ServedModel, **body: Any) -> None:
        asked = read_completion(
            json.dumps({"prompt": "The", **body}).encode(), model, id="req-1", created=1
        ).seeded()
        self.work = of_asked(asked, asked.requests(16, "f"))
        self.script = Script(model)
        self.metrics = Metrics()
        self.clock = ManualClock()
        meters = Meters(self.metrics, self.script, "m")
        self.generation = Generation(self.work, model, self.script, meters, self.clock, self.clock.now())
        self.written: list[bytes] = []
        self.gate = asyncio.Event()
        """The client reads while it is set."""
        self.gate.set()

    async def write(self, data: bytes) -> None:
        self.written.append(data)
        await self.gate.wait()

    def tokens(self) -> list[int]:
        """How many tokens each event brought."""
        return [
            len(ids.split(b","))
            for ids in re.findall(rb"id: \d+\.\d+(?:\+\d+)?:([\d,]+)", b"".join(self.written))
        ]


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def play(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


def test_each_token_is_an_event_and_the_end_is_done(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model, stream=True)
        with played.generation as generation:
            streaming = asyncio.create_task(events(generation, played.write, "pod"))
            for word in (" quick", " brown"):
                said = played.script.say(0, word)
                await turns()
                assert played.tokens()[-1] == said, "what came together goes together"
            played.script.say(0, " fox", finish="length")
            assert (await streaming).endswith(b"data: [DONE]\n\n")
        assert len(played.written) == 3

    play(scene())


def test_what_a_slow_client_misses_becomes_one_event(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model, stream=True, n=2)
        with played.generation as generation:
            streaming = asyncio.create_task(events(generation, played.write, "pod"))
            played.gate.clear()
            played.script.say(0, " quick")
            await turns()
            counts = [sum(played.script.say(place, " brown fox") for _ in range(20)) for place in (0, 1)]
            await turns()
            assert len(played.written) == 1
            played.gate.set()
            await turns()
            assert len(played.written) == 2 and played.tokens()[1:] == counts
            for place in (0, 1):
                played.script.say(place, ".", finish="stop")
            await streaming

    play(scene())


def test_a_stop_string_ends_the_engine_s_work(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model, n=2, stop=["brown"])
        with played.generation as generation:
            played.script.say(0, " quick brown fox")
            assert played.script.open == 1, "the other one goes on"
            played.script.say(1, " fox", finish="length")
            first, second = await generation.whole()
        assert (first.text, first.finish, first.stop) == (" quick ", Finish.STOP, "brown")
        assert (second.text, second.finish, second.stop) == (" fox", Finish.LENGTH, None)

    play(scene())


@pytest.mark.parametrize("error", [DeadlineExceeded("late"), Cancelled("left"), WorkerDied("gone")])
@pytest.mark.parametrize("stream", [True, False])
def test_what_ends_it_ends_all_of_its_work(model: ServedModel, error: BatonError, stream: bool) -> None:
    async def scene() -> None:
        played = Played(model, stream=stream, n=3)
        with pytest.raises(type(error)), played.generation as generation:
            wait: Coroutine[Any, Any, Any] = (
                events(generation, played.write, "pod") if stream else generation.whole()
            )
            ending = asyncio.create_task(wait)
            await turns()
            said = played.script.say(0, " quick")
            generation.fail(error)
            assert played.script.open == 0
            generation.fail(QueueFull("a second error changes nothing"))
            await ending
        assert played.tokens() == ([said] if stream else []), "what came before is not lost"

    play(scene())


def test_a_refusal_of_one_sequence_is_one_of_the_request(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model, n=3)
        with pytest.raises(QueueFull, match="many wait"), played.generation as generation:
            played.script.tell(1, None, finish="error", error="many wait", code="queue_full")
            assert played.script.open == 0
            await generation.whole()

        dead = Played(model, n=3)
        dead.script.failure = WorkerDied("gone")
        with pytest.raises(WorkerDied), dead.generation:
            pytest.fail("it was let in")
        assert dead.script.open == 0, "the sequence that had been submitted is still open"

    play(scene())


def test_an_update_that_cannot_be_read_ends_its_own_request_alone(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model)
        with pytest.raises(BatonError, match="internal error"), played.generation as generation:
            played.script.tell(0, 5, finish="a word that is no finish")
            await generation.whole()

    play(scene())


def test_sequences_of_one_prompt_differ_and_share_its_identity(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model, prompt=["The " * 30, "fox"], n=2)
        with played.generation:
            first, second, third, fourth = played.script.requests
        assert len({one.id for one in played.script.requests}) == 4
        assert first.identities == second.identities != ()
        assert (first.token_ids, third.token_ids) == (second.token_ids, fourth.token_ids)
        assert len({one.sampling.seed for one in played.script.requests}) == 4

    play(scene())


def test_log_probabilities_of_an_echo(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model, prompt="The fox", echo=True, logprobs=0)
        with played.generation as generation:
            tokens = played.script.requests[0].token_ids
            scores = tuple(TokenLogprob(token, -1.0, 1) for token in tokens[1:])
            played.script.tell(0, 5, logprob=TokenLogprob(5, -2.0, 3), scores=scores, cached=1)
            played.script.tell(0, 6, logprob=TokenLogprob(6, -3.0, 3), finish="length")
            (choice,) = await generation.whole()
        assert choice.prompt_logprobs == (None, *scores)
        assert [one.token_id for one in choice.logprobs or ()] == [5, 6]
        assert choice.offsets == (0, len(model.tokenizer.token_text(5)))
        assert choice.usage.cached_tokens == 1

    play(scene())


def test_what_happened_is_told_before_the_stream_ends(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model, stream=True, n=2)
        played.generation.work = replace(played.work, timeline=True)
        with played.generation as generation:
            streaming = asyncio.create_task(events(generation, played.write, "pod-7"))
            began = played.clock.now()
            story = Course([("queued", began + 0.001), ("merged", began + 0.25)], "prefill-2", 4096)
            played.script.tell(0, 5, cached=1, course=story)
            played.script.tell(1, 5, course=Course([("landed", began + 0.125)]))
            played.script.tell(0, 6, finish="length")
            played.script.tell(1, 6, finish="length")
            *_, last, done, rest = (await streaming).decode().split("\n\n")
        told = json.loads(last.removeprefix(": last\ndata: "))
        assert (done, rest, told["choices"]) == ("data: [DONE]", "", [])
        assert told["baton"] == {
            "pod": "pod-7", "prefill": "prefill-2", "cached": 1, "handed": 4096,
            "marks": [["0 queued", 1.0], ["1 landed", 125.0], ["0 merged", 250.0]],
        }  # fmt: skip

    play(scene())


def test_times_and_tokens_are_measured(model: ServedModel) -> None:
    async def scene() -> None:
        played = Played(model, n=2)
        with played.generation as generation:
            played.clock.advance(0.25)
            played.script.tell(0, 5, cached=1)
            played.script.tell(1, 5, cached=1)
            for _ in range(3):
                played.clock.advance(0.012)
                played.script.tell(0, 6)
            played.script.tell(0, 7, finish="length")
            played.script.tell(1, 7, finish="length")
            await generation.whole()
        found = samples(played.metrics.render().decode())
        assert (found["baton_ttft_seconds_count"], found["baton_ttft_seconds_sum"]) == (1, 0.25)
        assert found["baton_itl_seconds_count"] == 5
        assert found["baton_itl_seconds_sum"] == pytest.approx(0.036 + 0.036)
        kinds = [found[f"baton_tokens_total{{kind={kind}}}"] for kind in ("prompt", "cached", "generated")]
        assert kinds == [len(generation.work.prompts[0].token_ids), 1, 7]
        assert generation.notes()["ttft"] == 0.25

    play(scene())
