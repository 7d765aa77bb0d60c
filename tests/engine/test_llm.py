"""Models from Python, as a user meets them: through the engine's own processes, with the bundled model."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.checkpoints import Make

from baton.core.errors import (
    BatonError,
    InvalidField,
    InvalidSetting,
    Misconfigured,
    PromptTooLong,
    WorkerDied,
)
from baton.engine import LLM, AsyncLLM, SamplingParams
from baton.tiny import model_path

GREEDY = SamplingParams(max_tokens=24, temperature=0.0)
LONGEST = 256


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(str(model_path()), pages=200, max_model_len=LONGEST, max_running=16, threads=1) as made:
        yield made


def test_a_text_and_its_tokens_give_the_same(llm: LLM) -> None:
    assert llm.tokenizer is not None
    ids = llm.tokenizer.encode("The cat")
    (by_text,), (by_ids,) = llm.generate("The cat", GREEDY), llm.generate(ids, GREEDY)
    assert by_text.prompt_token_ids == tuple(ids)
    assert by_text.token_ids == by_ids.token_ids and by_text.text == by_ids.text
    assert by_text.finish_reason in ("stop", "length")
    assert by_text.text == llm.tokenizer.decode(by_text.token_ids) != ""


def test_many_prompts_come_back_in_order(llm: LLM) -> None:
    prompts = [f"{word} is" for word in ("Red", "The dog", "Two", "A house", "Night", "Anna")] * 3
    together = llm.generate(prompts, GREEDY)
    assert [o.text for o in together] == [llm.generate(p, GREEDY)[0].text for p in prompts]
    lengths = [SamplingParams(max_tokens=n, ignore_eos=True) for n in range(1, len(prompts) + 1)]
    outputs = llm.generate(prompts, lengths)
    assert [len(o.token_ids) for o in outputs] == list(range(1, len(prompts) + 1))
    assert {o.finish_reason for o in outputs} == {"length"}
    assert llm.generate([]) == []


def test_several_sequences_of_one_prompt(llm: LLM) -> None:
    many = SamplingParams(n=3, seed=11, max_tokens=20, temperature=1.5, ignore_eos=True)
    outputs = llm.generate(["The cat", "Red is"], many)
    assert [o.index for o in outputs] == [0, 1, 2, 0, 1, 2]
    assert len({o.token_ids for o in outputs}) == 6
    assert [o.token_ids for o in llm.generate(["The cat", "Red is"], many)] == [o.token_ids for o in outputs]
    alone = [SamplingParams(seed=11 + i, max_tokens=20, temperature=1.5, ignore_eos=True) for i in range(3)]
    assert [llm.generate("The cat", one)[0].token_ids for one in alone] == [o.token_ids for o in outputs[:3]]


def test_without_a_seed_each_run_differs(llm: LLM) -> None:
    free = SamplingParams(max_tokens=20, temperature=2.0, ignore_eos=True)
    assert len({llm.generate("The cat", free)[0].token_ids for _ in range(3)}) == 3


def test_a_stop_string_cuts_the_text_and_ends_the_work(llm: LLM) -> None:
    (whole,) = llm.generate("The cat", SamplingParams(max_tokens=100, temperature=0.0, ignore_eos=True))
    stop = whole.text[20:23]
    end = whole.text.index(stop)
    for include in (False, True):
        asked = SamplingParams(
            max_tokens=100, temperature=0.0, ignore_eos=True, stop=(stop, "zzzz"),
            include_stop_str_in_output=include,
        )  # fmt: skip
        (cut,) = llm.generate("The cat", asked)
        assert cut.text == whole.text[: end + (3 if include else 0)]
        assert (cut.finish_reason, cut.stopped_by) == ("stop", stop)
        assert cut.token_ids == whole.token_ids[: len(cut.token_ids)] and len(cut.token_ids) < 100


def test_a_stop_token_ends_and_is_no_text(llm: LLM) -> None:
    (whole,) = llm.generate("The cat", SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True))
    ender = whole.token_ids[9]
    first = whole.token_ids.index(ender)
    (cut,) = llm.generate(
        "The cat",
        SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True, stop_token_ids=(ender,)),
    )
    assert cut.token_ids == whole.token_ids[: first + 1]
    assert (cut.finish_reason, cut.stopped_by) == ("stop", ender)
    assert llm.tokenizer is not None and cut.text == llm.tokenizer.decode(whole.token_ids[:first])


def test_the_end_of_the_text_is_no_text(llm: LLM) -> None:
    eos = llm.facts.eos[0]
    pushed = SamplingParams(max_tokens=9, min_tokens=3, temperature=0.0, logit_bias=((eos, 100.0),))
    (ended,) = llm.generate("The cat", pushed)
    assert len(ended.token_ids) == 4 and ended.token_ids[-1] == eos and eos not in ended.token_ids[:3]
    assert (ended.finish_reason, ended.stopped_by) == ("stop", eos)
    assert llm.tokenizer is not None and ended.text == llm.tokenizer.decode(ended.token_ids[:3])


def test_logprobs_come_when_asked_for(llm: LLM) -> None:
    asked = SamplingParams(max_tokens=5, temperature=0.0, logprobs=2, prompt_logprobs=0, ignore_eos=True)
    (one,) = llm.generate("The cat is", asked)
    assert one.logprobs is not None and one.prompt_logprobs is not None
    assert [p.token_id for p in one.logprobs] == list(one.token_ids)
    assert all(p.rank == 1 and p.top[0] == (p.token_id, p.logprob) and len(p.top) == 2 for p in one.logprobs)
    assert [p.token_id for p in one.prompt_logprobs] == list(one.prompt_token_ids[1:])
    (without,) = llm.generate("The cat is", GREEDY)
    assert without.logprobs is None and without.prompt_logprobs is None


def test_a_prompt_seen_before_comes_from_the_cache(llm: LLM) -> None:
    ids = [7 + i % 90 for i in range(100)]
    first, again = llm.generate(ids, GREEDY)[0], llm.generate(ids, GREEDY)[0]
    assert first.cached_tokens == 0 and again.cached_tokens == 96
    assert first.token_ids == again.token_ids


def test_threads_may_share_it(llm: LLM) -> None:
    with ThreadPoolExecutor(4) as pool:
        texts = list(pool.map(lambda p: llm.generate(p, GREEDY)[0].text, ["The cat", "Red is"] * 4))
    assert texts == [o.text for o in llm.generate(["The cat", "Red is"], GREEDY)] * 4


@pytest.mark.parametrize(
    ("prompt", "sampling", "field", "why"),
    [
        ([5] * LONGEST, {}, "prompt", f"has {LONGEST} tokens; with one of output the most is {LONGEST}"),
        ([], {}, "prompt", "at least one token"),
        ([5, 999_999], {}, "prompt", "outside 0 to"),
        ([5], {"logit_bias": ((999_999, 1.0),)}, "logit_bias", "token 999999 is outside"),
    ],
)
def test_what_the_engine_refuses_names_its_field(
    llm: LLM, prompt: list[int], sampling: dict[str, object], field: str, why: str
) -> None:
    asked = SamplingParams(max_tokens=4, **sampling)  # type: ignore[arg-type]
    with pytest.raises(InvalidField, match=re.escape(why)) as raised:
        llm.generate([[1, 2, 3], prompt], asked)
    assert raised.value.field == field and str(raised.value).count(f"{field}: ") == 1
    assert isinstance(raised.value, PromptTooLong) == (len(prompt) == LONGEST)
    assert len(llm.generate([1, 2, 3], GREEDY)) == 1, "the engine goes on"


@pytest.mark.parametrize("field", ["max_tokens", "top_k", "stop_token_ids", "logit_bias"])
def test_numbers_that_no_message_carries_are_refused(field: str) -> None:
    huge = 2**70
    value = {"stop_token_ids": (huge,), "logit_bias": ((huge, 1.0),)}.get(field, huge)
    with pytest.raises(InvalidField, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


def test_as_many_settings_as_prompts(llm: LLM) -> None:
    with pytest.raises(InvalidField, match="sampling_params: has 2 entries for 3 prompts"):
        llm.generate(["a", "b", "c"], [GREEDY] * 2)


def test_lists_begin_with_the_longest_answers_and_streams_with_the_most_urgent(llm: LLM) -> None:
    assert llm._llm.config.policy == "lof"
    assert AsyncLLM(str(model_path())).config.policy == "priority"


def test_an_interrupt_ends_the_work(llm: LLM) -> None:
    """As Ctrl-C, or a notebook's stop button: it comes while the main thread waits for the loop's."""
    long = SamplingParams(max_tokens=200, ignore_eos=True)

    main = threading.get_ident()

    def interrupt() -> None:
        worker = llm._llm.worker
        while not (worker.open and worker.load is not None and worker.load.running):
            time.sleep(0.001)
        signal.pthread_kill(main, signal.SIGINT)

    # Whoever started the tests in the background may have had the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            llm.generate(["The cat"] * 40, long)
    finally:
        signal.signal(signal.SIGINT, before)
    llm.generate("The cat", SamplingParams(max_tokens=1))
    assert llm._llm.worker.open == 0


def test_closing_twice_is_once_and_a_closed_one_says_so() -> None:
    one = LLM(str(model_path()), pages=40, max_model_len=64, threads=1)
    one.close()
    one.close()
    with pytest.raises(WorkerDied, match="closed"):
        one.generate("a")


def run(work: Callable[[AsyncLLM], object], model: Path | None = None, **settings: object) -> None:
    async def main() -> None:
        made = {"max_model_len": 2048, "pages": 130, "max_running": 16, "threads": 1, **settings}
        async with AsyncLLM(str(model or model_path()), **made) as llm:
            await work(llm)  # type: ignore[misc]

    asyncio.run(main())


def test_streams_say_as_they_go_and_leaving_one_stops_its_work() -> None:
    async def work(llm: AsyncLLM) -> None:
        whole = (await llm.generate("The cat", GREEDY))[0]
        deltas = [delta async for delta in llm.stream("The cat", GREEDY)]
        assert "".join(d.text for d in deltas) == whole.text
        assert tuple(t for d in deltas for t in d.token_ids) == whole.token_ids
        assert deltas[0].cached is not None and [d.finish for d in deltas[:-1]] == [None] * (len(deltas) - 1)

        long = SamplingParams(max_tokens=2000, ignore_eos=True)
        for leave in (_break, _close, _cancel):
            await leave(llm, long)
            await llm.generate([7] * 40, SamplingParams(max_tokens=3, ignore_eos=True))
            assert llm.worker.open == 0
            load = llm.worker.load
            assert load is not None and (load.running, load.waiting, load.prefilling) == (0, 0, 0), leave
            assert load.pages_free + load.pages_cached >= load.pages_total - 3, leave

        with pytest.raises(InvalidField, match="n: must be 1 in a stream"):
            await anext(llm.stream("a", SamplingParams(n=2)))
        with pytest.raises(PromptTooLong):
            await anext(llm.stream([5] * 3000))

    run(work)


async def _break(llm: AsyncLLM, long: SamplingParams) -> None:
    async for delta in llm.stream("The cat", long):
        if len(delta.text) > 2:
            break
    await asyncio.sleep(0)


async def _close(llm: AsyncLLM, long: SamplingParams) -> None:
    async with aclosing(llm.stream("The cat", long)) as stream:
        await anext(stream)


async def _cancel(llm: AsyncLLM, long: SamplingParams) -> None:
    waiting = asyncio.create_task(llm.generate(["The cat", "Red is", "Two"], long))
    await asyncio.sleep(0.2)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


def test_a_list_may_be_longer_than_the_queue() -> None:
    async def work(llm: AsyncLLM) -> None:
        outputs = await llm.generate([[5, 6, i] for i in range(20)], SamplingParams(max_tokens=2, n=2))
        wanted = [(i, n) for i in range(20) for n in (0, 1)]
        assert [(o.prompt_token_ids[2], o.index) for o in outputs] == wanted
        with pytest.raises(PromptTooLong):
            await llm.generate([[5], [5] * 3000, *[[6]] * 20])
        assert len(await llm.generate([[5]] * 9)) == 9 and llm.worker.open == 0

    run(work, max_queued=3, max_running=2)


def test_a_model_without_a_tokenizer_takes_ids_alone(checkpoint: Make) -> None:
    async def work(llm: AsyncLLM) -> None:
        assert llm.tokenizer is None
        (made,) = await llm.generate([1, 2, 3], SamplingParams(max_tokens=4, ignore_eos=True))
        assert len(made.token_ids) == 4 and made.text == ""
        with pytest.raises(InvalidField, match=r"prompts\[1\]: is text, but the model has no tokenizer"):
            await llm.generate([[1, 2], "text"])
        with pytest.raises(InvalidField, match="stop: needs a tokenizer"):
            await llm.generate([1, 2], SamplingParams(stop=("a",)))
        assert llm.worker.open == 0

    run(work, checkpoint("llama").directory, max_model_len=64, tensor_parallel=2)


# ---- what keeps an engine from starting ----


def refused(model: Path, **settings: object) -> BatonError:
    with pytest.raises(Misconfigured) as raised:
        LLM(str(model), **{"pages": 40, "max_model_len": 64, "threads": 1, **settings})
    return raised.value


def broken(checkpoint: Make, tmp_path: Path, **changes: object) -> Path:
    copy = tmp_path / "model"
    shutil.copytree(checkpoint("llama").directory, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **changes}))
    return copy


def test_an_unknown_architecture_is_refused_with_the_known_ones(checkpoint: Make, tmp_path: Path) -> None:
    error = refused(broken(checkpoint, tmp_path, architectures=["MambaForCausalLM"], model_type="mamba"))
    assert error.code == "unsupported_model"
    for name in ("MambaForCausalLM", "LlamaForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM"):
        assert name in str(error)


def test_a_missing_tensor_is_named(checkpoint: Make, tmp_path: Path) -> None:
    copy = broken(checkpoint, tmp_path)
    tensors = load_file(copy / "model.safetensors")
    missing = "model.layers.1.mlp.up_proj.weight"
    del tensors[missing]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    error = refused(copy, tensor_parallel=2)
    assert error.code == "weight_mismatch" and missing in str(error)


def test_what_does_not_fit_names_the_setting(checkpoint: Make) -> None:
    model = checkpoint("llama").directory
    error = refused(model, max_model_len=100_000)
    assert (error.code, str(error)) == (
        "invalid_setting",
        "max_model_len: is 100000; the model's limit is 256",
    )
    assert "attention: no backend is named 'fa9'" in str(refused(model, attention="fa9"))
    assert str(refused(model, pages=3, max_model_len=64)).startswith("pages: 3 pages of 16 tokens are less")
    with pytest.raises(InvalidSetting, match="page_size: must be between"):
        LLM(str(model), page_size=0)


def test_a_model_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{ not json")
    assert "config.json" in str(refused(tmp_path))
    assert str(refused(tmp_path / "nowhere")) == f"model: {tmp_path}/nowhere is not a directory"


def test_a_tokenizer_that_is_not_there_leaves_no_engine_behind(tmp_path: Path) -> None:
    async def work() -> None:
        nowhere = str(tmp_path / "nowhere")
        made = AsyncLLM(str(model_path()), tokenizer=nowhere, pages=40, max_model_len=64, threads=1)
        with pytest.raises(Misconfigured, match="tokenizer"):
            await made.__aenter__()
        assert made.worker.facts is not None and made.worker.gone

    asyncio.run(work())
