"""The Hopper decode kernel against float32 on a real GPU; `bench_decode_attention.py check` does more."""

from __future__ import annotations

import pytest
import torch
from loadtest.bench_decode_attention import Step, check_one, lay_out, poison, reference

from baton.attention.base import Spans
from baton.attention.hopper import HopperDecode
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
