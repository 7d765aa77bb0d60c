"""A sequence that goes on from what a lost worker generated draws the tokens it would have drawn there."""

from __future__ import annotations

import pytest
from tests.checkpoints import Make
from tests.engine.inline import Inline
from tests.engine.test_scheduler import VOCAB, engine, prompts, request, run

from baton.core.errors import InvalidField
from baton.core.types import Finish, SamplingParams
from baton.testing.mirror import continuation
from baton.tokens.identity import page_identities

TOKENS = 20
PENALISED = {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.7}
SAMPLED = SamplingParams(
    max_tokens=TOKENS, seed=11, temperature=1.4, min_p=0.02, top_p=0.95, top_k=60, min_tokens=9,
    logit_bias=((5, 2.0), (9, -3.0)), stop_token_ids=tuple(range(0, 101, 8)), **PENALISED,
)  # fmt: skip
WAYS = {
    "greedy": SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True),
    "greedy, penalised": SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, **PENALISED),
    "sampled": SAMPLED,
}


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_every_cut_of_every_run_goes_on_as_if_undisturbed(way: str, overlap: bool, checkpoint: Make) -> None:
    """Cached and uncached, in chunks, over the border of pages."""
    sampling = WAYS[way]
    made = prompts(3, seed=4, longest=40)
    with Inline(checkpoint("qwen3").directory, overlap=overlap, page_size=4, prefill_budget=16) as served:
        whole = served.generate(made, sampling)
    runs = [[u.token for u in updates if u.token is not None] for updates in whole]
    finishes = [updates[-1].finish for updates in whole]
    assert any(len(run) > sampling.min_tokens for run in runs)
    if way == "sampled":
        assert Finish.STOP.value in finishes and min(map(len, runs)) > sampling.min_tokens
    cuts = [(p, n, cut) for p, n in enumerate(map(len, runs)) for cut in range(n)]
    for cache in ("radix", "naive"):
        settings = {"overlap": overlap, "page_size": 4, "prefill_budget": 16, "cache": cache}
        with Inline(checkpoint("qwen3").directory, **settings) as served:
            rest = served.generate(
                [made[p] for p, _, _ in cuts], sampling, [runs[p][:cut] for p, _, cut in cuts]
            )
        for (p, _, cut), updates in zip(cuts, rest, strict=True):
            told = [u.token for u in updates if u.token is not None]
            assert runs[p][:cut] + told == runs[p], f"prompt {p} cut at {cut}"
            assert updates[-1].finish == finishes[p]
            assert updates[0].cached is not None and all(u.cached is None for u in updates[1:])


def test_logprobs_are_told_of_new_tokens_alone(checkpoint: Make) -> None:
    asked = SamplingParams(max_tokens=8, temperature=0.0, logprobs=2, prompt_logprobs=1, ignore_eos=True)
    made = prompts(1, seed=6, longest=40)
    with Inline(checkpoint("qwen3").directory) as served:
        (whole,) = served.generate(made, asked)
        assert whole[0].scores is not None
        run = [u.token for u in whole if u.token is not None]
        (rest,) = served.generate(made, asked, [run[:3]])
    assert [u.token for u in rest] == run[3:]
    assert all(u.scores is None for u in rest), "its client has had the prompt's log-probabilities"
    for before, after in zip(whole[3:], rest, strict=True):
        assert before.logprob is not None and after.logprob is not None
        assert after.logprob.logprob == pytest.approx(before.logprob.logprob, abs=1e-4)
        assert [t for t, _ in after.logprob.top] == [t for t, _ in before.logprob.top]


def test_resumed_sequences_survive_retraction_and_share_their_pages() -> None:
    served = engine(pages=52, max_running=8)
    made = prompts(12, seed=2, longest=30)
    runs = [continuation(p, 60, VOCAB) for p in made]
    for i, (prompt, whole) in enumerate(zip(made, runs, strict=True)):
        served.submit(request(f"r{i}", prompt, 60, generated=whole[: 3 * i]))
    tokens = run(served)
    assert all(tokens[f"r{i}"] == whole[3 * i :] for i, whole in enumerate(runs))
    assert served.scheduler.retractions > 0


def test_generated_pages_are_found_in_the_cache_by_their_identities() -> None:
    served = engine(pages=200)
    prompt = list(range(18))
    whole = continuation(prompt, 40, VOCAB)
    served.submit(request("first", prompt, 40))
    run(served)
    served.submit(request("resumed", prompt, 40, generated=whole[:20]))
    before = served.runner.computed  # type: ignore[attr-defined]
    updates = []
    while not served.idle:
        updates += served.step().updates
    assert updates[0].cached == 36, "what is cached counts, prompt and generated"
    assert served.runner.computed - before == 2 + 19  # type: ignore[attr-defined]
    known = page_identities([*prompt, *whole], 4)
    assert len(served.scheduler.holdings.cache.match(list(known)).pages) == 57 // 4


@pytest.mark.parametrize(
    ("generated", "says"),
    [
        ([1] * 10, "has 10 tokens already"),
        ([1] * 400, "has 400 tokens already"),
        ([VOCAB], "has a token id outside 0 to 96"),
        ([-1], "has a token id outside 0 to 96"),
    ],
)
def test_nonsense_is_refused_with_the_field_named(generated: list[int], says: str) -> None:
    served = engine()
    with pytest.raises(InvalidField, match=f"generated: {says}") as caught:
        served.submit(request("r", [1, 2], 10, generated=generated))
    assert caught.value.field == "generated"
    served.submit(request("r", [1, 2], 10, generated=[1] * 9))
    assert len(run(served)["r"]) == 1
