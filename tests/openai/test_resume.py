"""A stream that breaks anywhere and goes on elsewhere: the client reads what an unbroken one gives."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from baton.core.types import Finish
from baton.openai import Delivered, Endpoint, EventRelay, ServedModel, Shape, Usage, choice_stream
from baton.openai.calls import Style
from baton.openai.reasoning import Reasoning
from baton.tokens import StopStrings, detokenizer

USAGE = Usage(prompt_tokens=3, completion_tokens=0)
PIECES = [
    *"🙂 fox天xb\x00 <",
    "<think>\n",
    "</think>",
    " </th",
    "<tool_call>",
    '{"name":"f"}',
    "</tool_call>",
]
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


def read(shape: Shape, events: bytes) -> tuple[str, str, list[str]]:
    """What was answered, what was thought, and which tools were called."""
    bodies = [json.loads(e.split(b"data: ")[1]) for e in events.split(b"\n\n") if e]
    if shape.endpoint is Endpoint.GENERATE:
        return bodies[-1]["text"] if bodies else "", "", []
    deltas = [body["choices"][0]["delta"] for body in bodies]
    said, thought = ("".join(d.get(key, "") for d in deltas) for key in ("content", "reasoning_content"))
    return said, thought, [call["id"] for d in deltas for call in d.get("tool_calls", ())]


@given(
    st.lists(st.sampled_from(PIECES) | st.integers(0, 504), max_size=25),
    st.lists(st.floats(0, 1), max_size=3),
    st.sampled_from(
        [(Endpoint.CHAT, None), (Endpoint.CHAT, Reasoning.MAY), (Endpoint.CHAT, Reasoning.BEGUN),
         (Endpoint.GENERATE, None)]
    ),
    st.sampled_from([None, *Style]),
)  # fmt: skip
@settings(max_examples=300)
def test_a_broken_stream_reads_like_a_whole_one(
    model: ServedModel,
    parts: list[str | int],
    breaks: list[float],
    how: tuple[Endpoint, Reasoning | None],
    calls: Style | None,
) -> None:
    endpoint, reasoning = how
    shape = Shape(
        endpoint=endpoint, id="x", model="m", created=1, stream=True, reasoning=reasoning, calls=calls
    )
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
