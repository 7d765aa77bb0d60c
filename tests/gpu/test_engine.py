"""The engine on a GPU: float32 token for token, bf16 within rounding, every backend, graphs on and off."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.inline import Inline
from torch import Tensor

from baton.attention.base import Spans
from baton.core.types import SamplingParams
from baton.engine import LLM
from baton.engine.stretches import Stretches
from baton.sampling.masks import Masks
from baton.sampling.places import Places
from baton.sampling.sampler import Picked, Sampler

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.gpu

SHAPE = {
    "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 2048, "head_dim": 128,
}  # fmt: skip
TOKENS = 24


@pytest.fixture(scope="module", params=["Qwen3", "Llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A random model whose weights are exact in bf16, saved; and transformers' float32 copy on the GPU."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{request.param}Config")(**SHAPE)
    made = getattr(transformers, f"{request.param}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.copy_((torch.randn_like(parameter) * 0.06).to(torch.bfloat16).float())
    directory = tmp_path_factory.mktemp(request.param)
    made.save_pretrained(directory)
    # Read back rather than cast: a cast would have rounded the rotary frequencies with the weights.
    made = type(made).from_pretrained(directory, dtype=torch.float32)
    made.set_attn_implementation("eager")  # the fused kernels round through tf32
    return directory, made.cuda().eval()


def prompts() -> list[list[int]]:
    chance = random.Random(5)
    shared = [chance.randrange(1000) for _ in range(200)]
    lengths = [1, 5, 16, 17, 31, 64, 100, 250, 400, 700]
    return [shared[: n // 2] + [chance.randrange(1000) for _ in range(n - n // 2)] for n in lengths]


class Recorder(Sampler):
    """Keeps the logits of every sampled token, by row and position."""

    def __init__(self, inner: Sampler) -> None:
        super().__init__(inner.rows)
        self.seen: dict[tuple[int, int], torch.Tensor] = {}

    def sample(
        self, logits: torch.Tensor, places: Places, masks: Masks | None = None,
        plain: torch.Tensor | None = None,
    ) -> Picked:  # fmt: skip
        for i, (row, position) in enumerate(zip(places.host_rows, places.host_positions, strict=True)):
            self.seen[int(row), int(position)] = logits[i].float().clone()
        return super().sample(logits, places, masks, plain)


def serve(directory: Path, **settings: Any) -> Inline:
    asked = {"device": "cuda", "pages": 1024, "max_running": 16, "graph_max_tokens": 0}
    return Inline(directory, **{**asked, **settings})


@pytest.mark.parametrize("graphs", [0, 16])
@pytest.mark.parametrize("attention", ["torch", "triton"])
@pytest.mark.parametrize("chunk", [48, 0])
def test_float32_equals_transformers(
    model: tuple[Path, Any], attention: str, graphs: int, chunk: int
) -> None:
    directory, reference = model
    settings = {
        "dtype": "float32",
        "attention": attention,
        "graph_max_batch": graphs,
        "prefill_budget": chunk,
    }
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    with serve(directory, **settings) as served:
        first = served.tokens(prompts(), asked)
        assert served.tokens(prompts(), asked) == first, "cached"
    for prompt, tokens in zip(prompts(), first, strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([prompt + tokens], device="cuda")).logits[0, len(prompt) - 1 : -1]
        best = logits.topk(2).values
        found = logits.gather(-1, torch.tensor(tokens, device="cuda")[:, None])[:, 0]
        assert logits.argmax(-1).tolist() == tokens, (
            f"margins {best[:, 0] - found}, gaps {best[:, 0] - best[:, 1]}"
        )


def test_short_prompts_as_lines_of_a_graph(model: tuple[Path, Any]) -> None:
    """Every prompt in chunks that fit into a graph, beside decodes; most of each the second time cached."""
    directory, reference = model
    settings = {"dtype": "float32", "attention": "triton", "mixed": True, "prefill_budget": 64}
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    with serve(directory, max_running=96, graph_max_batch=96, **settings) as served:
        for _ in range(2):
            for prompt, tokens in zip(prompts(), served.tokens(prompts(), asked), strict=True):
                assert greedy(reference, prompt + tokens, TOKENS) == tokens


@pytest.mark.parametrize("attention", ["triton", "flashinfer", "flashinfer,hopper"])
def test_bf16_logits_after_lines_are_within_rounding(model: tuple[Path, Any], attention: str) -> None:
    directory, reference = model
    settings = {"dtype": "bfloat16", "attention": attention, "mixed": True, "prefill_budget": 64}
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, logprobs=1)
    with serve(directory, max_running=96, graph_max_batch=96, **settings) as served:
        worst = furthest(served, reference, asked)
        assert worst < 2e-2, f"relative error {worst:.4f}"


def long_prompts() -> list[list[int]]:
    """From a few tokens to more than is captured; their beginnings are each other's."""
    chance = random.Random(6)
    shared = [chance.randrange(1000) for _ in range(900)]
    lengths = [3, 40, 300, 511, 640, 900, 1500]
    return [shared[: n // 2] + [chance.randrange(1000) for _ in range(n - n // 2)] for n in lengths]


class Counted:
    """Stretches, counting the steps that go through them by kind."""

    def __init__(self, inner: Stretches) -> None:
        self.inner = inner
        self.steps: Counter[str] = Counter()

    def fits(self, tokens: int) -> bool:
        return self.inner.fits(tokens)

    def forward(self, ids: Tensor, spans: Spans, wanted: Tensor | None = None) -> Tensor:
        decodes = len(spans.rows) - spans.prefills
        self.steps["mixed" if decodes and spans.prefills else "decodes" if decodes else "prefills"] += 1
        return self.inner.forward(ids, spans, wanted)


def counted(served: Inline) -> Counter[str]:
    its = served.built.runner
    assert isinstance(its.stretches, Stretches)
    its.stretches = found = Counted(its.stretches)  # type: ignore[assignment]
    return found.steps


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("graphs", [0, 16])
@pytest.mark.parametrize("attention", ["torch", "triton"])
def test_prefills_in_stretches_say_what_transformers_says(
    model: tuple[Path, Any], attention: str, graphs: int, mixed: bool
) -> None:
    """Together in chunks; most of each cached; alone. Without decode graphs, which torch's attention has none
    of, decodes go through stretches too."""
    directory, reference = model
    settings = {"dtype": "float32", "attention": attention, "graph_max_batch": graphs, "mixed": mixed}
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    answers = []
    for most in (1024, 0):
        with serve(directory, graph_max_tokens=most, prefill_budget=700, **settings) as served:
            steps = counted(served) if most else Counter()
            answers += [served.tokens(long_prompts(), asked) for _ in range(2)]
            answers += [[served.tokens([prompt], asked)[0] for prompt in long_prompts()]]
            if most:
                assert steps["prefills"] and bool(steps["mixed"]) == mixed
                assert bool(steps["decodes"]) == (graphs == 0 or attention == "torch")
    for prompt, tokens in zip(long_prompts(), answers[0], strict=True):
        assert greedy(reference, prompt + tokens, TOKENS) == tokens
    assert all(one == answers[0] for one in answers)


def test_a_prompt_is_scored_in_stretches(model: tuple[Path, Any]) -> None:
    directory, reference = model
    asked = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True, prompt_logprobs=1)
    prompt = long_prompts()[2]
    settings = {"dtype": "float32", "attention": "triton", "graph_max_batch": 16, "prefill_budget": 128}
    with serve(directory, graph_max_tokens=128, **settings) as served:
        steps = counted(served)
        (updates,) = served.generate([prompt], asked)
        assert steps == {"prefills": 3}
    with torch.inference_mode():
        logprobs = reference(torch.tensor([prompt], device="cuda")).logits[0].log_softmax(-1)
    scores = list(itertools.chain(*(update.scores or () for update in updates)))
    assert [one.token_id for one in scores] == prompt[1:]
    want = [float(logprobs[i, token]) for i, token in enumerate(prompt[1:])]
    assert [one.logprob for one in scores] == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("attention", ["triton", "flashinfer", "flashinfer,hopper"])
def test_bf16_logits_after_stretches_are_within_rounding(
    model: tuple[Path, Any], attention: str, mixed: bool
) -> None:
    directory, reference = model
    settings = {"dtype": "bfloat16", "attention": attention, "mixed": mixed, "prefill_budget": 700}
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, logprobs=1)
    with serve(directory, graph_max_batch=16, graph_max_tokens=1024, **settings) as served:
        steps = counted(served)
        worst = furthest(served, reference, asked, long_prompts())
        assert worst < 2e-2, f"relative error {worst:.4f}"
        assert steps["prefills"] and bool(steps["mixed"]) == mixed
        print(f"{attention} mixed {mixed}: worst relative error {worst:.4f}, {dict(steps)}")


def greedy(reference: Any, tokens: list[int], count: int) -> list[int]:
    """What the reference would have said in place of the last `count` tokens, given those before each."""
    with torch.inference_mode():
        logits = reference(torch.tensor([tokens], device="cuda")).logits[0, -count - 1 : -1]
    return [int(token) for token in logits.argmax(-1)]


@pytest.mark.multi_gpu
@pytest.mark.parametrize("graphs", [0, 16])
def test_two_ranks_say_what_transformers_says(model: tuple[Path, Any], graphs: int) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    directory, reference = model
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    settings: dict[str, Any] = {"dtype": "float32", "attention": "triton", "graph_max_batch": graphs}
    settings |= {"pages": 1024, "max_running": 16, "tensor_parallel": 2, "prefill_budget": 48}
    settings |= {"graph_max_tokens": 4 * graphs}
    with LLM(str(directory), device="cuda", **settings) as llm:
        for _ in range(2):  # the second time cached
            for prompt, output in zip(prompts(), llm.generate(prompts(), asked), strict=True):
                made = list(output.token_ids)
                assert greedy(reference, prompt + made, TOKENS) == made


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("graphs", [0, 16])
@pytest.mark.parametrize("attention", ["torch", "triton", "flashinfer", "flashinfer,hopper"])
def test_bf16_logits_are_within_rounding(
    model: tuple[Path, Any], attention: str, graphs: int, mixed: bool
) -> None:
    directory, reference = model
    settings = {"dtype": "bfloat16", "attention": attention, "graph_max_batch": graphs, "mixed": mixed}
    # Asking for log-probabilities makes every step, replayed ones too, show its logits to the sampler.
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, logprobs=1)
    with serve(directory, prefill_budget=96, **settings) as served:
        worst = furthest(served, reference, asked)
        assert worst < 2e-2, f"relative error {worst:.4f}"
        print(f"{attention} graphs {graphs} mixed {mixed}: worst relative error {worst:.4f}")


def furthest(
    served: Inline, reference: Any, asked: SamplingParams, some: list[list[int]] | None = None
) -> float:
    """The largest relative error of all logits that were sampled from."""
    some, worst = some or prompts(), 0.0
    for _ in range(2):  # the second time cached
        recorder = served.built.runner.sampler = Recorder(served.built.runner.sampler)
        tokens = served.tokens(some, asked)
        assert len(recorder.seen) == len(some) * TOKENS
        # A row serves one prompt, and no two prompts are of one length.
        rows = {min(at for r, at in recorder.seen if r == row): row for row, _ in recorder.seen}
        for prompt, made in zip(some, tokens, strict=True):
            with torch.inference_mode():
                whole = reference(torch.tensor([prompt + made], device="cuda")).logits[0]
            for i in range(len(made)):
                want = whole[len(prompt) - 1 + i]
                got = recorder.seen[rows[len(prompt)], len(prompt) + i]
                worst = max(worst, float((got - want).norm() / want.norm()))
    return worst
