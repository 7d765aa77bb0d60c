"""A stream that breaks anywhere and goes on elsewhere: the client reads what an unbroken one gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.types import Finish
from baton.openai import Delivered, Endpoint, EventRelay, ServedModel, Shape, Usage, choice_stream
from baton.tokens import StopStrings, detokenizer

USAGE = Usage(prompt_tokens=3, completion_tokens=0)
STOPS = ["\ufffdx", "fox", "🙂b", "  "]


def decode_pod(
    model: ServedModel, shape: Shape, prompt: Sequence[int], tokens: Sequence[int], before: Sequence[int] = ()
) -> Iterator[bytes]:
    """What a decode pod does with the tokens of one sequence, of which its client has some already."""
    text = detokenizer(model.tokenizer, prompt)
    stops = StopStrings(STOPS)
    told = stops.push(text.extend(before))
    stream = choice_stream(shape, model.tokenizer, USAGE, delivered=before, delivered_text=told)
    new: list[int] = []
    for token in tokens[len(before) :]:
        new.append(token)
        decided = stops.push(text.push(token))
        if stops.matched is not None:
            yield stream.chunk(decided, new, finish=Finish.STOP, stop=stops.matched)
            return
        if decided:
            yield stream.chunk(decided, new)
            new = []
    rest = stops.push(text.finish()) + stops.finish()
    yield stream.chunk(rest, new, finish=Finish.LENGTH)


def read(shape: Shape, events: bytes) -> str:
    bodies = [json.loads(e.split(b"data: ")[1]) for e in events.split(b"\n\n") if e]
    if shape.endpoint is Endpoint.GENERATE:
        return bodies[-1]["text"] if bodies else ""
    return "".join(body["choices"][0]["delta"]["content"] for body in bodies)


@given(
    st.lists(st.sampled_from("🙂 fox天xb\x00 ") | st.integers(0, 504), max_size=25),
    st.lists(st.floats(0, 1), max_size=3),
    st.sampled_from([Endpoint.CHAT, Endpoint.GENERATE]),
)
@settings(max_examples=150)
def test_a_broken_stream_reads_like_a_whole_one(
    model: ServedModel, parts: list[str | int], breaks: list[float], endpoint: Endpoint
) -> None:
    shape = Shape(endpoint=endpoint, id="x", model="m", created=1, stream=True)
    encode = model.tokenizer.encode
    tokens = [token for part in parts for token in ([part] if isinstance(part, int) else encode(part))]
    prompt = encode("🙂")[:-1]
    unbroken = b"".join(decode_pod(model, shape, prompt, tokens))

    client = b""
    relay = EventRelay()
    for place in [*breaks, 1.0]:
        has = relay.resume().get(0, Delivered())
        if has.ended:
            break
        stream = b"".join(decode_pod(model, shape, prompt, tokens, has.token_ids))
        client += relay.feed(stream[: int(len(stream) * place)])
    assert relay.delivered()[0].ended
    assert read(shape, client) == read(shape, unbroken)
    if endpoint is Endpoint.CHAT:
        assert client == unbroken
