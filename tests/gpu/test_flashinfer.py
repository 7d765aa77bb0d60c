"""FlashInfer's attention over the head-major pool against plain torch, eager and captured. Needs a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("flashinfer")

from tests.gpu import reference
from tests.gpu.reference import Shape, error

from baton.attention.base import Spans
from baton.attention.flashinfer import DecodeGraph, FlashInferAttention
from baton.attention.triton import TritonAttention
from baton.core.errors import InvalidSetting
from baton.kernels.capture import capturing

pytestmark = pytest.mark.gpu
TOLERANCE = 5e-3
PREFILL = [(5, 5), (300, 420), (2, 70), (129, 129)]
DECODE = [(1, 1), (1, 16), (1, 133), (1, 64), (1, 1999)]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def queries(count: int, shape: Shape) -> torch.Tensor:
    return torch.randn(count, shape.heads, shape.head_dim, device="cuda").to(shape.dtype)


def backend(pool: torch.Tensor, shape: Shape, window: int | None = None) -> FlashInferAttention:
    return FlashInferAttention(
        pool, shape.heads, shape.kv_heads, shape.head_dim**-0.5, max_batch=64, window=window
    )


def check(shape: Shape, spans: list[tuple[int, int]], window: int | None = None) -> None:
    batch, pool = reference.batch(spans, shape, "cuda")
    attention = backend(pool, shape, window)
    q = queries(len(batch.positions), shape)
    attention.plan(batch)
    for layer in (1, 0):
        got = attention.attend(q, layer, batch)
        assert got.shape == (len(q), shape.heads * shape.head_dim)
        want = reference.attention(q, pool, layer, batch, shape.head_dim**-0.5, window)
        assert error(got, want) < TOLERANCE


@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (8, 4), (8, 2), (16, 2), (16, 1), (10, 2)])
def test_prefill_and_decode_together(heads: int, kv_heads: int, page_size: int) -> None:
    check(Shape(heads, kv_heads, 128, page_size), PREFILL + DECODE)


@pytest.mark.parametrize("spans", [PREFILL, DECODE, DECODE * 70], ids=["prefill", "decode", "large decode"])
def test_only_one_kind(spans: list[tuple[int, int]]) -> None:
    check(Shape(8, 2, 128), spans)


def test_narrow_heads() -> None:
    check(Shape(8, 2, 64), PREFILL + DECODE)


@pytest.mark.parametrize("window", [1, 40, 5000])
def test_window(window: int) -> None:
    check(Shape(4, 2, 128), PREFILL + DECODE, window)


def test_what_lies_past_a_sequence_is_not_read_into_it() -> None:
    """Slots that nobody wrote may hold anything that is finite or not."""
    shape = Shape(8, 2, 128)
    batch, pool = reference.batch(PREFILL + DECODE, shape, "cuda")
    q = queries(len(batch.positions), shape)
    want = reference.attention(q, pool, 0, batch, 128**-0.5)
    attention = backend(pool, shape)
    written = torch.zeros(pool.shape[0], shape.page_size, dtype=torch.bool, device="cuda")
    for row, length in zip(batch.rows.tolist(), batch.lengths.tolist(), strict=True):
        token = torch.arange(length, device="cuda")
        written[batch.table[row, token // 16].long(), token % 16] = True
    pool.permute(0, 4, 1, 2, 3, 5)[~written] = float("nan")
    attention.plan(batch)
    assert error(attention.attend(q, 0, batch), want) < TOLERANCE


def test_a_plan_does_not_disturb_the_step_in_flight() -> None:
    """Steps are queued faster than they run; each must run by its own plan."""
    shape = Shape(8, 2, 128)
    spans = [[(40 + i, 90 + i), *[(1, 30 + 97 * i + j) for j in range(5)]] for i in range(6)]
    steps = [reference.batch(some, shape, "cuda", seed=i) for i, some in enumerate(spans)]
    pool = torch.cat([p for _, p in steps])
    offsets = [sum(len(p) for _, p in steps[:i]) for i in range(6)]
    batches = [replace(b, table=b.table + offset) for (b, _), offset in zip(steps, offsets, strict=True)]
    qs = [queries(len(b.positions), shape) for b in batches]
    attention = backend(pool, shape)
    busy = torch.randn(8192, 8192, device="cuda")
    torch.cuda.synchronize()
    outputs = []
    for b, q in zip(batches, qs, strict=True):
        busy @ busy
        attention.plan(b)
        outputs.append(attention.attend(q, 0, b))
    for got, b, q in zip(outputs, batches, qs, strict=True):
        assert error(got, reference.attention(q, pool, 0, b, 128**-0.5)) < TOLERANCE


@dataclass(frozen=True, slots=True)
class Captured:
    """One layer-0 attention in a graph that first changes its own lengths, as a decode step does."""

    attention: DecodeGraph | TritonAttention
    spans: Spans
    q: torch.Tensor
    graph: torch.cuda.CUDAGraph
    out: torch.Tensor

    @classmethod
    def make(
        cls, owner: FlashInferAttention | TritonAttention, table: torch.Tensor, size: int, shape: Shape
    ) -> Captured:
        start, _ = reference.batch([(1, 1)] * size, shape, "cuda")
        inside = replace(start, table=table, rows=torch.full_like(start.rows, len(table) - 1), host=None)
        attention, q = owner.graph(size), queries(size, shape)
        attention.plan(replace(inside, host=start.host))

        def step() -> torch.Tensor:
            torch.add(inside.positions, 1, out=inside.lengths)
            return attention.attend(q, 0, inside)

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        torch.cuda.current_stream().wait_stream(stream)
        with capturing(stream) as graph:
            out = step()
        return cls(attention, inside, q, graph, out)

    def replay(self, step: Spans) -> torch.Tensor:
        """With as many of the step's sequences as fit; the other lines are padding."""
        size = min(len(self.q), len(step.rows))
        self.spans.rows.fill_(len(self.spans.table) - 1)
        self.spans.positions.zero_()
        self.spans.rows[:size] = step.rows[:size]
        self.spans.positions[:size] = step.lengths[:size] - 1
        self.spans.lengths.fill_(2**20)  # stale until the graph has run
        self.q.normal_()
        self.out.fill_(float("nan"))
        assert step.host is not None
        host = replace(step.host, new=step.host.new[:size], lengths=step.host.lengths[:size])
        self.attention.plan(replace(self.spans, host=host))
        self.graph.replay()
        return self.out[:size]


@pytest.mark.parametrize("name", ["flashinfer", "triton"])
def test_replays_follow_the_plan(name: str) -> None:
    """Two captured sizes share buffers; lengths change from one to thousands; some lines are padding."""
    shape = Shape(8, 2, 128)
    lengths = [[1] * 16, [1700 + i for i in range(16)], [5, 2000, 17, 300] * 4, [33] * 11]
    steps = [reference.batch([(1, n) for n in some], shape, "cuda", seed=i) for i, some in enumerate(lengths)]
    pool = torch.cat([p for _, p in steps])
    offsets = [sum(len(p) for _, p in steps[:i]) for i in range(4)]
    table = torch.zeros(20, 200, dtype=torch.int32, device="cuda")
    owner = backend(pool, shape) if name == "flashinfer" else TritonAttention(pool, 8, 2, 128**-0.5)
    graphs = {size: Captured.make(owner, table, size, shape) for size in (16, 4)}
    for i, size in ((0, 16), (1, 16), (2, 16), (2, 4), (3, 16), (1, 4), (0, 4), (1, 16)):
        step, captured = steps[i][0], graphs[size]
        table.zero_()
        pages = step.table + offsets[i] * (step.table < 2**29)
        table[: len(pages), : pages.shape[1]] = pages * (step.table < 2**29)
        got = captured.replay(step)
        some = replace(step, rows=step.rows[:size], lengths=step.lengths[:size], table=table)
        want = reference.attention(captured.q[: len(got)], pool, 0, some, 128**-0.5)
        assert error(got, want) < TOLERANCE


def test_what_cannot_be_served_is_refused() -> None:
    shape = Shape(8, 2, 128)
    _, pool = reference.batch(DECODE, shape, "cuda")
    with pytest.raises(InvalidSetting, match="max_batch"):
        backend(pool, shape).graph(65)
    with pytest.raises(InvalidSetting, match="float32"):
        backend(pool.float(), shape)
