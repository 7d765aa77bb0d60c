"""A batch survives the wire to the following ranks unchanged, whatever the scheduler put into it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
from tests.engine.test_scheduler import engine, prompts, request

from baton.core.types import SamplingParams
from baton.engine.batch import Batch
from baton.engine.limits import Mixing
from baton.engine.steps import from_step, to_step
from baton.protocol.engine import encode, read_to_rank
from baton.sampling.fresh import Fresh
from baton.sampling.masks import Masks


def over_the_wire(batch: Batch) -> Batch:
    return from_step(read_to_rank(encode(to_step(batch))))


def assert_same(one: Any, other: Any, where: str) -> None:
    assert type(one) is type(other), where
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype and one.shape == other.shape, where
        assert np.array_equal(one, other), where
    elif isinstance(one, tuple):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_same(a, b, f"{where}[{i}]")
    elif isinstance(one, Batch | Fresh | Masks):
        for field in fields(one):
            assert_same(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
    else:
        assert one == other, where


def test_every_batch_of_a_busy_run_arrives_as_it_was_sent() -> None:
    """Chunks, decodes, retractions, penalties and scored prompts, as one engine announces them."""
    batches: list[Batch] = []
    served = engine(pages=40, mixing=Mixing.ALWAYS, prefill_budget=16)
    served.announce = batches.append
    for i, prompt in enumerate(prompts(40, seed=1)):
        asked: dict[str, Any] = {"presence_penalty": 0.5, "seed": 2**64 - 1 - i} if i % 3 else {}
        if i % 7 == 0:
            asked["prompt_logprobs"] = 2
        served.submit(request(f"r{i}", prompt, 1 + i, **asked))
    served.scheduler.updates.clear()
    while not served.idle:
        launch = served.scheduler.next()
        if launch is not None:
            batches.append(launch.batch)
            outcome = served.runner.launch(launch.batch).result()
            scored = [() for span in launch.spans if span.scores]
            served.scheduler.absorb(launch, type(outcome)(outcome.tokens, None, tuple(scored)))
    assert served.scheduler.retractions > 0
    assert any(f is not None for b in batches for f in b.following)
    assert any(len(one.tokens) for b in batches for one in b.fresh)
    for batch in batches:
        assert_same(batch, over_the_wire(batch), f"step {batch.step}")


def test_an_empty_batch_and_every_sampling_parameter() -> None:
    nothing = np.empty(0, dtype=np.int32)
    sampling = SamplingParams(
        max_tokens=None, temperature=0.25, top_p=0.5, top_k=7, min_p=0.1, seed=-5, presence_penalty=1.0,
        frequency_penalty=-1.0, repetition_penalty=1.5, logit_bias=((3, -2.5),), stop=("ü\n",),
        stop_token_ids=(4, 5), ignore_eos=True, n=2, logprobs=0, prompt_logprobs=3,
        skip_special_tokens=False, include_stop_str_in_output=True,
    )  # fmt: skip
    fresh = Fresh(3, sampling, (1, 2), 9, np.asarray([2**31 - 1, 0], dtype=np.int32), 7)
    batch = Batch(
        0, (fresh,), (nothing, nothing, nothing), nothing, nothing, nothing, nothing.astype(np.bool_), (),
        nothing, nothing, nothing,
    )  # fmt: skip
    assert_same(batch, over_the_wire(batch), "batch")


def test_masks_travel() -> None:
    nothing = np.empty(0, dtype=np.int32)
    masks = Masks(np.asarray([1, 4], dtype=np.int32), np.arange(24, dtype=np.uint8).reshape(2, 12))
    batch = Batch(
        7, (), (nothing, nothing, nothing), nothing, nothing, nothing, nothing.astype(np.bool_), (), nothing,
        nothing, nothing, masks,
    )  # fmt: skip
    assert_same(batch, over_the_wire(batch), "batch")
