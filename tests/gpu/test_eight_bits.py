"""Pools of eight bits on a GPU: each backend against plain torch, the engine beside transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from tests import rounded
from tests.gpu import reference
from tests.gpu.reference import Shape, error
from tests.gpu.test_engine import TOKENS, Recorder, model, prompts, serve

from baton.attention.base import Attention, Capturable, Scales
from baton.attention.choose import BACKENDS, Need, best, choose_attention
from baton.attention.hopper import HopperDecode
from baton.core.errors import InvalidSetting
from baton.core.types import SamplingParams
from baton.kernels.capture import capturing
from baton.kernels.torch import TorchKernels
from baton.kernels.triton import TritonKernels

__all__ = ["model"]

pytestmark = pytest.mark.gpu
TOLERANCE = 6e-3
PREFILL = [(5, 5), (300, 420), (2, 70), (129, 129)]
DECODE = [(1, 1), (1, 16), (1, 133), (1, 64), (1, 1999)]
SCALES = [Scales(2.0, 0.5), Scales(0.25, 4.0)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("rounds to eight bits from compute capability 8.9 on")


def need(pool: torch.Tensor, shape: Shape, window: int | None = None, dtype: Any = torch.bfloat16) -> Need:
    windows = [window] * shape.layers
    return Need(pool, shape.heads, shape.kv_heads, shape.head_dim**-0.5, windows, 64, dtype, SCALES)


def skip_unless_there(name: str, pool: torch.Tensor, shape: Shape) -> None:
    if "flashinfer" in name:
        pytest.importorskip("flashinfer")
    if "hopper" in name and (why := HopperDecode.supported(pool, shape.heads, shape.kv_heads)) is not None:
        pytest.skip(why)


def check(name: str, shape: Shape, spans: list[tuple[int, int]], window: int | None = None) -> None:
    batch, drawn = reference.batch(spans, shape, "cuda")
    small, wide = reference.narrowed(drawn, SCALES)
    skip_unless_there(name, small, shape)
    small[0].view(torch.uint8).fill_(0x7F)  # no number: nobody may read the scratch page
    q = torch.randn(len(batch.positions), shape.heads, shape.head_dim, device="cuda").bfloat16()
    attention, _ = choose_attention(name, need(small, shape, window))
    attention.plan(batch)
    for layer in (1, 0):
        want = reference.attention(q, wide, layer, batch, shape.head_dim**-0.5, window)
        assert error(attention.attend(q, layer, batch), want) < TOLERANCE


@pytest.mark.parametrize("name", ["torch", "triton", "flashinfer", "flashinfer,hopper"])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (8, 2), (16, 2), (10, 2), (16, 1)])
def test_every_backend_reads_it_with_its_scales(name: str, heads: int, kv_heads: int, head_dim: int) -> None:
    shape = Shape(heads, kv_heads, head_dim)
    if name == "torch":  # reads what it masks, as the engine's pool allows
        batch, drawn = reference.batch(PREFILL + DECODE, shape, "cuda")
        small, wide = reference.narrowed(drawn, SCALES)
        q = torch.randn(len(batch.positions), heads, head_dim, device="cuda").bfloat16()
        attention = BACKENDS[name](need(small, shape))
        attention.plan(batch)
        want = reference.attention(q, wide, 1, batch, head_dim**-0.5)
        assert error(attention.attend(q, 1, batch), want) < TOLERANCE
        return
    for spans in (PREFILL + DECODE, DECODE, PREFILL):
        check(name, shape, spans)


@pytest.mark.parametrize("name", ["triton", "flashinfer", "flashinfer,hopper"])
def test_windows_and_larger_pages(name: str) -> None:
    check(name, Shape(8, 2, 128, page_size=64), PREFILL + DECODE)
    check(name, Shape(4, 2, 128), PREFILL + DECODE, window=40)


@pytest.mark.parametrize("name", ["triton", "flashinfer", "hopper"])
def test_a_captured_batch_reads_it_with_its_scales(name: str) -> None:
    shape = Shape(8, 2, 128)
    batch, drawn = reference.batch(DECODE, shape, "cuda")
    small, wide = reference.narrowed(drawn, SCALES)
    skip_unless_there(name, small, shape)
    owner: Attention = BACKENDS[name](need(small, shape))
    assert isinstance(owner, Capturable)
    captured, q = owner.graph(len(DECODE)), torch.randn(len(DECODE), 8, 128, device="cuda").bfloat16()
    # FlashInfer lists the pages of columns that the table has; the rest of ours are no pages.
    inside = replace(batch, table=batch.table * (batch.table < 2**29), host=None)
    captured.plan(batch)

    def step() -> list[torch.Tensor]:
        return [captured.attend(q, layer, inside) for layer in (0, 1)]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    with capturing(stream) as graph:
        outs = step()
    for _ in range(2):
        q.normal_()
        captured.plan(batch)
        graph.replay()
        for layer, out in enumerate(outs):
            assert error(out, reference.attention(q, wide, layer, batch, 128**-0.5)) < TOLERANCE


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_fused_kernel_writes_what_plain_torch_writes(dtype: torch.dtype) -> None:
    shape, scales = Shape(16, 8, 128, layers=2, dtype=dtype), Scales(0.25, 0.01)
    spans, drawn = reference.batch([(300, 420), (1, 33)], shape, "cuda")
    pools = [reference.narrowed(drawn, [Scales()] * 2)[0].clone() for _ in range(3)]
    qkv = 3 * torch.randn(len(spans.positions), 32 * 128, device="cuda").to(dtype)
    norms = (torch.rand(128, device="cuda").to(dtype), torch.rand(128, device="cuda").to(dtype))
    asked = (1, spans, reference.rope_table(512, 128, "cuda"), norms, 1e-6, scales)
    reference.rotate_store(qkv, pools[0], *asked)
    TritonKernels().rotate_store(qkv, pools[1], *asked)
    TorchKernels().rotate_store(qkv, pools[2], *asked)
    for pool in pools[1:]:
        apart = (pool.view(torch.uint8).int() - pools[0].view(torch.uint8).int()).abs()
        assert int(apart.max()) <= 1 and float((apart > 0).float().mean()) < 1e-2
        assert bool(pool.float().isfinite().all()) and float(pool[:, :, 1].float().abs().max()) == 448


def test_the_best_backends_serve_it() -> None:
    shape = Shape(16, 8, 128)
    _, drawn = reference.batch(DECODE, shape, "cuda")
    small, _ = reference.narrowed(drawn, SCALES)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        wanted = need(small, shape, dtype=dtype)
        assert best(wanted) != "torch"
        choose_attention("auto", wanted)
    assert best(need(small, shape, dtype=torch.float32)) == "triton"
    if "flashinfer" in best(need(small, shape)):
        with pytest.raises(InvalidSetting, match="set attention to triton"):
            choose_attention("flashinfer", need(small, shape, dtype=torch.float32))


def worst(model: Any, asked: list[list[int]], tokens: list[list[int]], recorder: Recorder) -> float:
    """The largest relative error of any sampled token's logits."""
    rows = {min(at for r, at in recorder.seen if r == row): row for row, _ in recorder.seen}
    found = 0.0
    for prompt, made in zip(asked, tokens, strict=True):
        cache = rounded.RoundingCache(model.config)
        with torch.inference_mode():
            ids = torch.tensor([prompt + made], device="cuda")
            whole = model(ids, past_key_values=cache, use_cache=True).logits[0]
        for i in range(len(made)):
            want = whole[len(prompt) - 1 + i]
            got = recorder.seen[rows[len(prompt)], len(prompt) + i]
            found = max(found, float((got - want).norm() / want.norm()))
    return found


@pytest.mark.parametrize("graphs", [0, 16])
@pytest.mark.parametrize("attention", ["torch", "triton", "flashinfer", "auto"])
def test_bf16_logits_are_those_of_rounded_keys_and_values(
    model: tuple[Path, Any], attention: str, graphs: int
) -> None:
    """Cached, chunked, replayed. Numbers that lie between two go either way by bf16's own rounding, and move
    logits by more than bf16 does, with plain torch too (4.2–4.8 %): hence three times its bound."""
    directory, whole = model
    settings = {"dtype": "bfloat16", "attention": attention, "graph_max_batch": graphs, "mixed": True}
    settings |= {"graph_max_tokens": 8 * graphs}
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True, logprobs=1)
    with serve(directory, kv_cache_dtype="fp8", prefill_budget=96, **settings) as served:
        assert served.built.runner.pool.dtype == torch.float8_e4m3fn
        for _ in range(2):  # the second time cached
            recorder = served.built.runner.sampler = Recorder(served.built.runner.sampler)
            tokens = served.tokens(prompts(), asked)
            far = worst(whole, prompts(), tokens, recorder)
            assert far < 6e-2, f"relative error {far:.4f}"
        print(f"{served.built.attention} graphs {graphs}: worst relative error {far:.4f}")


def test_float32_says_what_transformers_says_with_rounded_keys_and_values(model: tuple[Path, Any]) -> None:
    """Nearly everywhere: a number between two falls otherwise now and then, and turns a near tie."""
    directory, whole = model
    asked = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    with serve(directory, dtype="float32", attention="triton", kv_cache_dtype="fp8") as served:
        tokens = served.tokens(prompts(), asked)
    for prompt, made in zip(prompts(), tokens, strict=True):
        cache = rounded.RoundingCache(whole.config)
        with torch.inference_mode():
            ids = torch.tensor([prompt + made], device="cuda")
            logits = whole(ids, past_key_values=cache, use_cache=True).logits[0, len(prompt) - 1 : -1]
        lost = logits.amax(-1) - logits.gather(-1, torch.tensor(made, device="cuda")[:, None])[:, 0]
        assert float(lost.max()) < 1e-2 * float(logits.std())
