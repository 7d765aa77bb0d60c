"""The Hopper decode kernel against float32 on a real GPU; `bench_decode_attention.py check` does more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from loadtest.bench_decode_attention import Step, check_one, lay_out, poison, reference

from baton.attention.base import Spans
from baton.attention.hopper import HopperDecode
from baton.attention.hopper.decode import most_lines
from baton.engine.graphs import Held
from baton.kernels.capture import capturing

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

LENGTHS = {
    "page borders": [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129],
    "one long": [2500],
    "one giant, many tiny, some empty": [5000] + [3, 0, 17, 1] * 25,
}
TOGETHER = pytest.mark.parametrize("together", [0, 1000], ids=["warps alone", "blocks together"])


@pytest.fixture(autouse=True)
def hopper() -> None:
    torch.manual_seed(0)
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("not compute capability 9.0")


@TOGETHER
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize(("group", "head_dim"), [(1, 128), (2, 128), (5, 128), (16, 128), (2, 64), (8, 64)])
def test_matches_float32_and_repeats_bit_for_bit(
    group: int, head_dim: int, lengths: list[int], together: int
) -> None:
    check_one("", lengths, 4, group, head_dim, 16, None, together)


@TOGETHER
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@pytest.mark.parametrize(
    ("group", "head_dim", "page_size", "window"),
    [
        *[(1, 128, 16, None), (2, 128, 64, None), (5, 128, 16, 100), (16, 128, 16, None)],
        *[(2, 64, 16, None), (8, 64, 32, 64), (5, 64, 16, 1)],
    ],
)
def test_pools_of_eight_bits(
    group: int, head_dim: int, page_size: int, window: int | None, lengths: list[int], together: int
) -> None:
    """The same, with scales of keys and values."""
    check_one("", lengths, 4, group, head_dim, page_size, window, together, torch.float8_e4m3fn)


@TOGETHER
@pytest.mark.parametrize(("page_size", "window"), [(64, None), (16, 1), (16, 100), (32, 64)])
def test_pages_of_more_tiles_and_windows(page_size: int, window: int | None, together: int) -> None:
    check_one("", LENGTHS["page borders"] + [900], 2, 2, 128, page_size, window, together)


def spans(step: Step) -> Spans:
    batch = len(step.rows)
    return Spans(
        table=step.table,
        rows=step.rows,
        starts=torch.arange(batch + 1, dtype=torch.int32, device="cuda"),
        lengths=step.lengths,
        positions=step.lengths - 1,
        token_rows=step.rows,
        prefills=0,
        host=None,
    )


def test_a_captured_graph_follows_its_inputs() -> None:
    """Lengths, table, q and the newest K and V change between replays; the graph writes q, K and V."""
    batch, heads, kv_heads, head_dim = 24, 16, 8, 128
    pool = torch.randn(800, kv_heads, 2, 2, 16, head_dim, device="cuda").bfloat16()
    step = lay_out(pool, [400] * batch, seed=1)
    attention = HopperDecode(pool, heads, kv_heads, head_dim**-0.5, max_batch=batch)
    source = torch.zeros(batch, heads, head_dim, device="cuda", dtype=torch.bfloat16)
    newest = torch.zeros(batch, kv_heads, 2, head_dim, device="cuda", dtype=torch.bfloat16)
    outs: list[torch.Tensor] = []

    def run() -> None:
        outs.clear()
        last = step.lengths.long() - 1
        pages = step.table[step.rows.long(), last // 16].long()
        q = source * 2
        for layer in range(2):
            pool[:, :, layer][pages, :, :, last % 16] = newest
            outs.append(attention.attend(q, layer, spans(step)))

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    with capturing(stream) as graph:
        run()
    for seed in range(4):
        lengths = torch.randint(1, 401, (batch,), generator=torch.Generator().manual_seed(seed))
        fresh = lay_out(pool, lengths.tolist(), seed)
        step.table.zero_()
        step.table[:, : fresh.table.shape[1]] = fresh.table
        step.rows.copy_(fresh.rows)
        step.lengths.copy_(fresh.lengths)
        source.normal_()
        newest.normal_()
        graph.replay()
        for layer, out in enumerate(outs):
            wanted = reference(source * 2, layer, step, head_dim**-0.5, None)
            assert (out.float() - wanted).norm() / wanted.norm() < 5e-3


def test_an_empty_sequence_gives_zeros_and_reads_nothing() -> None:
    pool = torch.full((4, 2, 1, 2, 16, 64), float("nan"), device="cuda", dtype=torch.bfloat16)
    step = lay_out(pool, [0, 0, 0], seed=0)
    poison(step)
    attention = HopperDecode(pool, 4, 2, 1.0, max_batch=3)
    q = torch.randn(3, 4, 64, device="cuda").bfloat16()
    assert not attention.attend(q, 0, spans(step)).any()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float8_e4m3fn], ids=["bf16", "eight bits"])
@pytest.mark.parametrize(
    ("group", "head_dim"), [(1, 128), (2, 128), (4, 128), (5, 128), (8, 128), (2, 64), (4, 64)]
)
def test_pieces_of_prompts_beside_decodes(group: int, head_dim: int, kind: torch.dtype) -> None:
    """As a captured step has them: prompts cut into pieces, decodes, padding; the same bits every time."""
    kv_heads, heads, layers = 4, 4 * group, 2
    new = [50, 1, 1, 19, 1, 7, 33, 1]
    lengths = [50, 700, 3, 2019, 64, 16, 100, 1]
    size = sum(new) + 15
    pool = torch.randn(600, kv_heads, layers, 2, 16, head_dim, device="cuda").to(kind)
    step = lay_out(pool, lengths, seed=3)
    poison(step)
    pool.view(torch.uint8)[0] = 0  # the scratch page, which padding reads
    step.table[0] = 0
    whole = HopperDecode(pool, heads, kv_heads, head_dim**-0.5, max_batch=256)
    attention = whole.graph_spans(256)
    assert attention is not None and attention.lines == most_lines(group) == min(8, 16 // group)
    if 0 in step.rows.tolist():  # row 0 is padding's
        table = torch.cat([torch.zeros_like(step.table[:1]), step.table])
        step.table, step.rows = table, step.rows + 1
    held = Held(*(np.array(x, np.int32) for x in (step.rows.tolist(), new, lengths)))
    rows, ends, starts = (torch.from_numpy(x).cuda() for x in held.pieces(attention.lines, size))
    q = torch.randn(size, heads, head_dim, device="cuda").bfloat16()
    lines = [
        (row, n - k)
        for row, n, m in zip(step.rows.tolist(), lengths, new, strict=True)
        for k in range(m - 1, -1, -1)
    ]
    each = Step(
        pool,
        step.table,
        *(torch.tensor(x, dtype=torch.int32, device="cuda") for x in zip(*lines, strict=True)),
    )
    for layer in range(layers):
        found = torch.full((size, heads * head_dim), float("nan"), dtype=torch.bfloat16, device="cuda")
        attention.decode(q, layer, step.table, rows, ends, found, starts)
        wanted = reference(q[: len(lines)], layer, each, head_dim**-0.5, None)
        error = (found[: len(lines)].float() - wanted).norm() / wanted.norm()
        assert error < (5e-3 if kind == torch.bfloat16 else 1e-2), error
        assert bool(found.isfinite().all()), "padding too"
        for _ in range(3):
            assert torch.equal(attention.decode(q, layer, step.table, rows, ends, None, starts), found)


def test_there_is_no_use_in_pieces_with_many_heads_or_windows() -> None:
    pool = torch.zeros(4, 2, 1, 2, 16, 64, device="cuda", dtype=torch.bfloat16)
    assert HopperDecode(pool, 32, 2, 1.0, max_batch=3).graph_spans(3) is None
    assert HopperDecode(pool, 4, 2, 1.0, max_batch=3, window=5).graph_spans(3) is None
