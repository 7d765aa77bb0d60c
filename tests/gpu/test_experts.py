"""A mixture of experts of Qwen3-MoE's shape on a GPU: transformers' tokens in float32, its logits in bf16."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.gpu.test_engine import TOKENS, Recorder, prompts, serve

from baton.core.types import SamplingParams

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.gpu

SHAPE = {
    "vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 2,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128, "max_position_embeddings": 2048,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 384, "norm_topk_prob": True,
}  # fmt: skip
GREEDY = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Random weights that are exact in bf16, saved; and transformers' float32 copy on the GPU."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        made = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SHAPE))
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not name.endswith("norm.weight"):
                parameter.copy_((torch.randn_like(parameter) * 0.06).to(torch.bfloat16).float())
    directory = tmp_path_factory.mktemp("mixture")
    made.save_pretrained(directory)
    made = type(made).from_pretrained(directory, dtype=torch.float32)
    made.set_attn_implementation("eager")  # the fused kernels round through tf32
    return directory, made.cuda().eval()


@pytest.mark.parametrize("graphs", [0, 16])
def test_float32_equals_transformers(mixture: tuple[Path, Any], graphs: int) -> None:
    directory, reference = mixture
    settings = {"dtype": "float32", "attention": "triton", "graph_max_batch": graphs, "prefill_budget": 48}
    settings |= {"graph_max_tokens": 4 * graphs}
    with serve(directory, **settings) as served:
        found = served.tokens(prompts(), GREEDY)
        assert served.tokens(prompts(), GREEDY) == found, "cached"
    for prompt, tokens in zip(prompts(), found, strict=True):
        with torch.inference_mode():
            ids = torch.tensor([prompt + tokens], device="cuda")
            logits = reference(ids).logits[0, len(prompt) - 1 : -1]
        assert logits.argmax(-1).tolist() == tokens


@pytest.mark.parametrize("graphs", [0, 16])
def test_bf16_logits_are_within_rounding(mixture: tuple[Path, Any], graphs: int) -> None:
    """Of most tokens: where two experts are nearly as likely, bf16 may choose the other, which moves logits
    by more than rounding. transformers in bf16 shows how often; more is a mistake here."""
    directory, reference = mixture
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, logprobs=1)
    rounding = type(reference).from_pretrained(directory, dtype=torch.bfloat16).cuda().eval()
    settings = {"graph_max_batch": graphs, "graph_max_tokens": 8 * graphs, "prefill_budget": 96}
    with serve(directory, dtype="bfloat16", **settings) as served:
        recorder = served.built.runner.sampler = Recorder(served.built.runner.sampler)
        tokens = served.tokens(prompts(), asked)
    rows = {min(at for r, at in recorder.seen if r == row): row for row, _ in recorder.seen}
    ours, theirs = [], []
    for prompt, made in zip(prompts(), tokens, strict=True):
        with torch.inference_mode():
            ids, cut = torch.tensor([prompt + made], device="cuda"), slice(len(prompt) - 1, -1)
            want, near = reference(ids).logits[0, cut], rounding(ids).logits[0, cut].float()
        got = torch.stack([recorder.seen[rows[len(prompt)], len(prompt) + i] for i in range(len(made))])
        ours.append((got - want).norm(dim=-1) / want.norm(dim=-1))
        theirs.append((near - want).norm(dim=-1) / want.norm(dim=-1))
    mine, others = torch.cat(ours), torch.cat(theirs)
    print(f"median {float(mine.median()):.4f}, transformers' own {float(others.median()):.4f}")
    assert float(mine.median()) < max(2e-2, 1.2 * float(others.median()))
    assert float(mine.quantile(0.9)) < max(2e-2, 1.5 * float(others.quantile(0.9)))
