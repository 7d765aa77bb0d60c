"""Greedy output is transformers' own, token for token, whatever the engine does to be fast."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch
from tests.checkpoints import VARIANTS, Checkpoint, Make
from tests.engine.inline import Inline

from baton.core.types import SamplingParams
from baton.engine import LLM
from baton.engine.runner import SCORED

TOKENS = 10
GREEDY = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)


def prompts() -> list[list[int]]:
    """64 of mixed length; half share beginnings, some are equal, some end on a page's border."""
    chance = random.Random(3)
    shared = [chance.randrange(101) for _ in range(130)]
    made = []
    for i in range(64):
        common = chance.choice([0, 0, 16, 33, 64, 100]) if i % 2 else 0
        own = chance.choice([1, 2, 15, 16, 17, 40, 63])
        made.append(shared[:common] + [chance.randrange(101) for _ in range(own)])
    made[10], made[20] = made[11], made[21]
    return made


class Reference:
    """What transformers generates; each checkpoint is asked once."""

    def __init__(self) -> None:
        self._answers: dict[str, list[list[int]]] = {}

    def __call__(self, name: str, checkpoint: Checkpoint) -> list[list[int]]:
        if name not in self._answers:
            self._answers[name] = [greedy(checkpoint.model, prompt) for prompt in prompts()]
        return self._answers[name]


def greedy(model: torch.nn.Module, prompt: list[int]) -> list[int]:
    ids = torch.tensor([prompt])
    cache, tokens = None, []
    with torch.inference_mode():
        for _ in range(TOKENS):
            out = model(ids, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            ids = out.logits[:, -1:].argmax(-1)
            tokens.append(int(ids))
    return tokens


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.mark.parametrize("name", VARIANTS)
def test_every_architecture(name: str, checkpoint: Make, reference: Reference) -> None:
    made = checkpoint(name)
    want = reference(name, made)
    with Inline(made.directory) as served:
        assert served.tokens(prompts(), GREEDY) == want
        assert served.tokens(prompts(), GREEDY) == want, "with every prompt cached"
    with Inline(
        made.directory, prefill_budget=16, mixed=True, page_size=4, pages=90, max_model_len=256
    ) as served:
        assert served.tokens(prompts(), GREEDY) == want, "chunked, mixed, in a small pool"


MATRIX = list(itertools.product([16, 64, 0], [1, 16, 64], ["radix", "naive"], [True, False]))


@pytest.mark.parametrize(("chunk", "page_size", "cache", "overlap"), MATRIX)
def test_chunks_pages_caches_and_overlap(
    chunk: int, page_size: int, cache: str, overlap: bool, checkpoint: Make, reference: Reference
) -> None:
    made = checkpoint("qwen3")
    settings = {"prefill_budget": chunk, "page_size": page_size, "cache": cache, "overlap": overlap}
    with Inline(made.directory, **settings, pages=32768 // page_size) as served:
        assert served.tokens(prompts(), GREEDY) == reference("qwen3", made)


@pytest.mark.parametrize("overlap", [True, False])
def test_filled_steps_in_which_those_who_run_give_way(overlap: bool, checkpoint: Make) -> None:
    """By the time the last prompt comes, the first three answers have less left than its own will have."""
    made = checkpoint("qwen3")
    counts = [90, 85, 84, 83]
    params = [SamplingParams(max_tokens=n, temperature=0.0, ignore_eos=True) for n in counts]
    given = [(prompt * 30)[:30] for prompt in prompts()[: len(counts)]]
    with Inline(made.directory) as plain:
        want = plain.tokens(given, params)
    with Inline(made.directory, policy="lof", mixed=True, graph_max_batch=7, overlap=overlap) as filled:
        assert filled.tokens(given, params) == want


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("cache", ["radix", "naive"])
def test_retraction_by_a_small_pool(
    overlap: bool, cache: str, checkpoint: Make, reference: Reference
) -> None:
    made = checkpoint("qwen3")
    long = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True)
    with Inline(made.directory, page_size=4, pages=1000, cache=cache) as roomy:
        want = roomy.tokens(prompts(), long)
    assert [tokens[:TOKENS] for tokens in want] == reference("qwen3", made)
    small = {"page_size": 4, "pages": 120, "max_model_len": 256, "cache": cache, "overlap": overlap}
    with Inline(made.directory, **small) as served:
        assert served.tokens(prompts(), long) == want
        assert served.engine.scheduler.retractions > 0, "the pool was meant to be too small"


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", ["qwen3", "qwen3-moe"])
def test_tensor_parallel(ranks: int, name: str, checkpoint: Make, reference: Reference) -> None:
    made = checkpoint(name)
    with LLM(
        str(made.directory), tensor_parallel=ranks, pages=4096, max_running=64, prefill_budget=64, threads=1
    ) as llm:
        outputs = llm.generate(prompts(), GREEDY)
        assert [list(output.token_ids) for output in outputs] == reference(name, made)
        again = llm.generate(prompts(), GREEDY)
        assert [list(output.token_ids) for output in again] == reference(name, made)
        assert all(
            output.cached_tokens >= (len(p) - 1) // 16 * 16
            for output, p in zip(again, prompts(), strict=True)
        )


def test_logprobs_are_those_of_transformers(checkpoint: Make) -> None:
    made = checkpoint("qwen3")
    asked = SamplingParams(max_tokens=6, temperature=0.0, logprobs=5, prompt_logprobs=3, ignore_eos=True)
    some = prompts()[:12]
    with Inline(made.directory, prefill_budget=32) as served:
        answers = served.generate(some, asked)
    for prompt, updates in zip(some, answers, strict=True):
        tokens = [u.token for u in updates if u.token is not None]
        with torch.inference_mode():
            logprobs = made.model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
        got = [u.logprob for u in updates if u.token is not None]
        for i, one in enumerate(got):
            assert one is not None
            line = logprobs[len(prompt) - 1 + i]
            assert one.token_id == tokens[i] and one.rank == 1
            assert one.logprob == pytest.approx(float(line[tokens[i]]), abs=1e-4)
            top = line.topk(5)
            assert [t for t, _ in one.top] == top.indices.tolist()
            assert [v for _, v in one.top] == pytest.approx(top.values.tolist(), abs=1e-4)
        scores = updates[0].scores
        assert scores is not None and [s.token_id for s in scores] == prompt[1:]
        for i, one in enumerate(scores):
            assert one.logprob == pytest.approx(float(logprobs[i, prompt[i + 1]]), abs=1e-4)
            assert len(one.top) == 3


def test_a_long_prompt_is_scored_piece_by_piece(checkpoint: Make) -> None:
    """A line of logits takes some of a MB: those of a whole prompt together would end the engine."""
    made = checkpoint("qwen3")
    prompt = [token % 101 for token in range(1, 240)]
    lines = []
    with Inline(made.directory) as served:
        decoder = served.built.runner.decoder

        class Head:
            def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
                lines.append(len(hidden))
                return decoder.head(hidden)

        served.built.runner.decoder = replace(decoder, head=Head())
        ((update,),) = served.generate([prompt], SamplingParams(max_tokens=1, prompt_logprobs=0))
    with torch.inference_mode():
        logprobs = made.model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    assert update.scores is not None and [one.token_id for one in update.scores] == prompt[1:]
    wanted = [float(logprobs[i, token]) for i, token in enumerate(prompt[1:])]
    assert [one.logprob for one in update.scores] == pytest.approx(wanted, abs=1e-4)
    assert max(lines) <= SCORED < len(prompt)
