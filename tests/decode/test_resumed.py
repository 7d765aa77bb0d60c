"""Streams that break at any byte and go on in another pod, over an engine that says what it is told to say.

The client reads what it would have read of one unbroken stream: no character, token or end is lost or comes
twice, whatever was held back where it broke.
"""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.decode.reading import Answer, read
from tests.decode.test_stream import FACTS, Script
from tests.tokens import checkpoints

from baton.core.errors import CannotContinue, InvalidField, Refused
from baton.core.types import Request, SamplingParams, TokenLogprob
from baton.decode.meters import Meters
from baton.decode.stream import Generation, events
from baton.decode.work import Work, of_asked, of_placed
from baton.openai import (
    Delivered,
    Endpoint,
    EventRelay,
    Had,
    ServedModel,
    read_bookmark,
    read_completion,
    read_generate,
    ticket_of,
)
from baton.protocol.engine import Update
from baton.protocol.placed import Placed
from baton.telemetry import Metrics
from baton.testing.clock import ManualClock
from baton.tokens.identity import page_identities

READ = {"chat": read_completion, "completion": read_completion, "generate": read_generate}
"""The model has no chat template, so a chat is a completion that is answered as one."""


@pytest.fixture(scope="module", params=["qwen", "llama2", "unigram"])
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> ServedModel:
    """One of each way in which text is held back."""
    directory: Path = checkpoints.write(tmp_path_factory.mktemp("model"), request.param)
    return ServedModel.load(directory, names=["m"], max_length=100, vocabulary=512)


@dataclass(frozen=True)
class Case:
    """One request and the tokens that every engine would generate for it."""

    endpoint: str
    body: dict[str, Any]
    runs: list[list[int]]
    """Of each choice."""

    def work(self, model: ServedModel) -> Work:
        body = json.dumps({**self.body, "stream": True}).encode()
        asked = READ[self.endpoint](body, model, id="r", created=1).seeded()
        shape = replace(asked.shape, endpoint=Endpoint(self.endpoint))
        return of_asked(replace(asked, shape=shape), asked.requests(16, "f"))


def serve(case: Case, work: Work, model: ServedModel, chance: random.Random) -> bytes:
    """The whole stream of one pod; its engine is as fast or slow, and its client too, as chance has it."""

    async def run() -> bytes:
        script = Script(model)
        clock = ManualClock()
        meters = Meters(Metrics(), script, "m")
        written: list[bytes] = []

        async def write(data: bytes) -> None:
            written.append(data)

        with Generation(work, model, script, meters, clock, clock.now()) as generation:
            streaming = asyncio.create_task(events(generation, write, "pod"))
            left = {request.id: request for request in script.requests}
            said = {request.id: len(request.generated) for request in script.requests}
            while left:
                request = left[chance.choice(list(left))]
                say(case, script, request, said)
                if request.id not in script.sinks:
                    del left[request.id]
                for _ in range(chance.choice([0, 0, 0, 2])):
                    await asyncio.sleep(0)
            written.append(await asyncio.wait_for(streaming, 5))
        return b"".join(written)

    return asyncio.run(run())


def say(case: Case, script: Script, request: Request, said: dict[str, int]) -> None:
    """The engine's next token of one sequence."""
    choice = int(request.id.rpartition("-")[2])
    place, run = said[request.id], case.runs[choice]
    said[request.id] += 1
    score = TokenLogprob(run[place], -float(place), 1) if request.sampling.logprobs is not None else None
    scores = None
    if request.sampling.prompt_logprobs is not None and not place:
        scores = tuple(TokenLogprob(token, -0.5, 1) for token in request.token_ids[1:])
    finish = "length" if place + 1 == len(run) else None
    first = place == len(request.generated)
    sink = script.sinks[request.id]
    if finish is not None:
        del script.sinks[request.id]
    sink(
        Update(
            request.id, run[place], finish=finish, logprob=score, scores=scores, cached=1 if first else None
        )
    )


def resumed(work: Work, delivered: dict[int, Delivered]) -> Work:
    """As a router sends it on, through the wire."""
    requests = tuple(
        replace(one, generated=tuple(delivered.get(index, Delivered()).token_ids))
        for index, one in enumerate(work.requests)
    )
    ended = tuple(index for index, one in delivered.items() if one.ended)
    texts = tuple(prompt.text for prompt in work.prompts[:: work.shape.n])
    sent = Placed(
        id="r", shape=work.shape, requests=requests, texts=texts, ended=ended, resumes=bool(delivered)
    )
    return of_placed(sent, "other", FACTS)


def broken(case: Case, model: ServedModel, cuts: list[float], seed: int) -> tuple[Answer, EventRelay]:
    """What a client has at the end, when pods are lost at these shares of what they would have said."""
    chance = random.Random(seed)
    work = case.work(model)
    relay, client = EventRelay(), b""
    for cut in [*cuts, 1.0]:
        stream = serve(case, resumed(work, relay.resume()), model, chance)
        client += relay.feed(stream[: int(len(stream) * cut)])
        if relay.done:
            break
    return read(client), relay


def strip(answer: Answer) -> Answer:
    """Without what may differ: how many events it took."""
    for told in answer.choices.values():
        told.events = 0
    return answer


PIECES = st.sampled_from(["🙂", " fox", "天", "x", "b", " ", " quick brown", "The"]) | st.integers(0, 500)


@given(
    endpoint=st.sampled_from(list(READ)),
    parts=st.lists(st.lists(PIECES, min_size=1, max_size=12), min_size=1, max_size=2),
    stop=st.sampled_from([None, ["🙂b"], ["fox", "ox x"], ["\ufffdx", "  "]]),
    min_tokens=st.integers(0, 3),
    scored=st.booleans(),
    cuts=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    seed=st.integers(0, 100),
)
@settings(max_examples=50, deadline=None)
def test_a_broken_stream_reads_like_a_whole_one(
    model: ServedModel, endpoint: str, parts: list[list[str | int]], stop: list[str] | None,
    min_tokens: int, scored: bool, cuts: list[float], seed: int,
) -> None:  # fmt: skip
    encode = model.tokenizer.encode
    runs = [[t for p in part for t in ([p] if isinstance(p, int) else encode(p))] for part in parts]
    sampling: dict[str, Any] = {"stop": stop, "min_tokens": min_tokens, "n": len(runs)}
    body = asking(endpoint, {key: value for key, value in sampling.items() if value}, scored)
    case = Case(endpoint, body, runs)
    whole = read(serve(case, case.work(model), model, random.Random(seed)))
    assert whole.done == 1 and len(whole.choices) == len(runs)
    got, relay = broken(case, model, cuts, seed)
    assert relay.done
    assert strip(got) == strip(whole)
    assert all(told.roles == (endpoint == "chat") for told in got.choices.values())


def asking(endpoint: str, sampling: dict[str, Any], scored: bool) -> dict[str, Any]:
    more = {"return_token_ids": True, "stream_options": {"include_usage": True}, "max_tokens": 90}
    if endpoint != "generate":
        scores = {"logprobs": 1, "echo": endpoint == "completion"} if scored else {}
        return {"model": "m", "prompt": "The fox", **more, **sampling, **scores}
    sampling = {("min_new_tokens" if key == "min_tokens" else key): sampling[key] for key in sampling}
    scores = {"return_logprob": True} if scored else {}
    return {"text": "The fox", "sampling_params": {"max_new_tokens": 90, **sampling}, **scores}


def test_cuts_all_along_one_stream(model: ServedModel) -> None:
    """A stop string and a character are held back over cuts; the second choice ends at another place."""
    runs = [model.tokenizer.encode(text) for text in ("The quick 🙂 brown fo", "fox 天 x b")]
    body = asking("completion", {"stop": ["brown fox"], "n": 2}, scored=True)
    case = Case("completion", body, runs)
    length = len(serve(case, case.work(model), model, random.Random(1)))
    whole = strip(read(serve(case, case.work(model), model, random.Random(1))))
    assert "".join(told.text for told in whole.choices.values()).count("🙂") == 1
    for cut in range(0, length, 23):
        got, _ = broken(case, model, [cut / length], 1)
        assert strip(got) == whole, f"cut at byte {cut}"


def continued(work: Work, had: Had | None) -> Work:
    """For a client that comes back, of whose tokens nobody knows more than their count and digest."""
    shape = replace(work.shape, ticket=ticket_of("req-" + 24 * "0", "f"))
    texts = tuple(prompt.text for prompt in work.prompts)
    return of_placed(
        Placed(id="r", shape=shape, requests=work.requests, texts=texts, had=had), "other", FACTS
    )


@given(
    endpoint=st.sampled_from(["chat", "completion"]),
    parts=st.lists(PIECES, min_size=1, max_size=12),
    stop=st.sampled_from([None, ["🙂b"], ["fox", "ox x"], ["\ufffdx", "  "]]),
    scored=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=25, deadline=None)
def test_a_client_that_comes_back_after_any_event_reads_the_rest(
    model: ServedModel, endpoint: str, parts: list[str | int], stop: list[str] | None, scored: bool, seed: int
) -> None:
    run = [t for p in parts for t in ([p] if isinstance(p, int) else model.tokenizer.encode(p))]
    case = Case(endpoint, asking(endpoint, {"stop": stop} if stop else {}, scored), [run])
    stream = serve(case, continued(case.work(model), None), model, random.Random(seed))
    whole, client = strip(read(stream)), b""
    for event in stream.split(b"\n\n")[:-1]:
        client += event + b"\n\n"
        if not event.startswith(b"id: "):
            continue
        had = read_bookmark(event.partition(b"\n")[0][4:].decode()).had
        rest = serve(case, continued(case.work(model), had), model, random.Random(seed + 1))
        assert rest.endswith(b"data: [DONE]\n\n") and strip(read(client + rest)) == whole


@pytest.mark.parametrize("had", [Had(2, 1, False), Had(3, 0, True), Had(99, 0, False), Had(0, 0, True)])
def test_an_answer_that_came_out_another_way_is_not_continued(model: ServedModel, had: Had) -> None:
    case = Case("completion", asking("completion", {}, scored=False), [[7, 8, 9]])
    with pytest.raises(CannotContinue):
        serve(case, continued(case.work(model), had), model, random.Random(0))


def test_a_stream_that_lacks_only_its_end_computes_nothing(model: ServedModel) -> None:
    case = Case("completion", asking("completion", {}, scored=False), [model.tokenizer.encode("fox")])
    work = case.work(model)
    stream = serve(case, work, model, random.Random(0))
    relay = EventRelay()
    client = relay.feed(stream[:-1])
    assert b'"completion_tokens"' not in client, "usage waits for the end, which it is one with"
    sent = resumed(work, relay.resume())
    assert sent.ended == {0}
    client += relay.feed(serve(replace(case, runs=[[]]), sent, model, random.Random(0)))
    assert relay.done and strip(read(client)) == strip(read(stream))


def test_pages_of_what_was_generated_have_their_identities(model: ServedModel) -> None:
    work = Case("completion", {"model": "m", "prompt": list(range(5, 46))}, []).work(model)
    (request,) = work.requests
    assert request.identities and len(request.token_ids) % FACTS.page_size
    (sent,) = resumed(work, {0: Delivered(list(range(40)))}).requests
    assert sent.generated == tuple(range(40))
    assert sent.identities == page_identities((*request.token_ids, *range(40)), 16, request.salt)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("requests", {"requests": ()}),
        ("texts", {"texts": ()}),
        ("ended", {"ended": (1,)}),
        ("requests[0].token_ids", {"token_ids": (512,)}),
        ("requests[0].token_ids", {"token_ids": ()}),
        ("requests[0].generated", {"generated": (-1,)}),
        ("requests[0].identities", {"identities": (b"x" * 16,)}),
        ("requests[0].sampling.n", {"sampling": SamplingParams(n=2)}),
        ("generated", {"generated": (5,), "stream": False}),
        ("had", {"had": Had(1, 2, False), "stream": False}),
        ("had", {"had": Had(1, 2, False), "generated": (5,)}),
    ],
)
def test_what_no_router_should_send_is_refused_by_name(
    model: ServedModel, field: str, changes: dict[str, Any]
) -> None:
    work = Case("completion", {"model": "m", "prompt": "The"}, []).work(model)
    request, shape = work.requests[0], work.shape
    of_request = {k: v for k, v in changes.items() if k in Request.__dataclass_fields__}
    shape = replace(shape, stream=changes.get("stream", True))
    rest = {k: v for k, v in changes.items() if k in ("requests", "texts", "ended", "had")}
    sent = Placed(id="r", shape=shape, requests=(replace(request, **of_request),), texts=("The",))
    sent = msgspec.structs.replace(sent, **rest)
    with pytest.raises(InvalidField) as caught:
        of_placed(sent, "own", FACTS)
    assert caught.value.field == field


def test_what_was_meant_for_a_pod_that_was_here_before_is_refused(model: ServedModel) -> None:
    work = Case("completion", {"model": "m", "prompt": "The"}, []).work(model)
    for layout, taken in (
        ("", True),
        (f"{FACTS.fingerprint.hex()}/{FACTS.page_size}", True),
        ("old/16", False),
    ):
        sent = Placed(id="r", shape=work.shape, requests=work.requests, texts=("The",), layout=layout)
        with nullcontext() if taken else pytest.raises(Refused):
            of_placed(sent, "own", FACTS)


def test_a_stop_string_in_what_was_generated_is_refused(model: ServedModel) -> None:
    case = Case("completion", asking("completion", {"stop": ["fox"]}, scored=False), [[1]])
    had = {0: Delivered(model.tokenizer.encode("fox"))}
    with pytest.raises(InvalidField, match="ends with the stop string 'fox'"):
        serve(case, resumed(case.work(model), had), model, random.Random(0))
