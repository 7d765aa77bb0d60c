"""What a router sends a pod arrives as it was, the answer's shape included."""

from __future__ import annotations

from baton.core.types import Request, SamplingParams
from baton.openai.calls import Style
from baton.openai.reasoning import Reasoning
from baton.openai.shape import Endpoint, Shape
from baton.protocol import placed


def test_an_answer_s_shape_travels_whole() -> None:
    shape = Shape(
        endpoint=Endpoint.CHAT, id="x", model="m", created=1, reasoning=Reasoning.BEGUN, thoughts=False,
        thought_whole=True, calls=Style.LISTED, one_call=True,
    )  # fmt: skip
    asked = Request(id="r-0", token_ids=(1, 2), sampling=SamplingParams(max_tokens=3))
    sent = placed.Placed(id="r", shape=shape, requests=(asked,), texts=("hi",))
    assert placed.read(placed.encode(sent)) == sent


def test_a_grammar_of_many_choices_travels_once() -> None:
    long = "x" * 10_000
    grammars = ["", long, "y", long, long]
    requests = tuple(
        Request(id=f"r-{n}", token_ids=(1,), sampling=SamplingParams(grammar=grammar))
        for n, grammar in enumerate(grammars)
    )
    shape = Shape(endpoint=Endpoint.COMPLETION, id="x", model="m", created=1)
    sent = placed.Placed(id="r", shape=shape, requests=requests, texts=(None,) * 5)
    data = placed.encode(sent)
    assert len(data) < 13_000 and placed.read(data) == sent
