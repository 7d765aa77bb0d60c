"""The list of pages that FlashInfer reads: on the GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from tests.gpu import reference
from tests.gpu.device import DEVICE, QUIET
from tests.gpu.reference import Shape

from baton.attention.triton_pages import CHUNK, list_pages

pytestmark = QUIET


@pytest.mark.parametrize(
    ("lengths", "page_size"),
    [
        ([1], 16),
        ([15, 16, 17, 64, 65], 16),
        ([15, 16, 17, 64, 65], 64),
        ([CHUNK + 1, 3, 2 * CHUNK], 1),
        ([2] * (CHUNK + 3), 16),
    ],
)
def test_pages_of_every_span_in_turn(lengths: list[int], page_size: int) -> None:
    shape = Shape(1, 1, 2, page_size, 1, torch.float32)
    spans, _ = reference.batch([(1, length) for length in lengths], shape, DEVICE)
    counts = [-(-length // page_size) for length in lengths]
    rows, table = spans.rows.tolist(), spans.table.cpu()
    pages = torch.full((sum(counts) + 5,), -1, dtype=torch.int32, device=DEVICE)
    ends = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=DEVICE)
    last = torch.zeros(len(lengths), dtype=torch.int32, device=DEVICE)
    list_pages(spans.table, spans.rows, spans.lengths, max(counts), page_size, pages, ends, last)
    expected = torch.cat([table[row, :count] for row, count in zip(rows, counts, strict=True)])
    assert pages.tolist() == [*expected.tolist(), -1, -1, -1, -1, -1]
    assert ends.tolist() == [sum(counts[:i]) for i in range(len(counts) + 1)]
    assert last.tolist() == [(length - 1) % page_size + 1 for length in lengths]
