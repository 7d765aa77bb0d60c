# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, misc"
"""The page table as FlashInfer wants it: one list of every sequence's pages, written on the device.

Launched by `attention.flashinfer` alone, once a step. The host knows the lengths and so the list's size; the
pages themselves are only in the device's table, and stay there.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

CHUNK = 256


@triton.jit
def _pages(lengths, i, first, count, PAGE: tl.constexpr):
    return (tl.load(lengths + i, mask=(i >= first) & (i < count), other=0) + PAGE - 1) // PAGE


@triton.jit(do_not_specialize_on_alignment=["rows", "lengths", "pages", "ends", "last"])
def _list_pages(
    table, rows, lengths, pages, ends, last, table_stride,
    PAGE: tl.constexpr, CHUNK: tl.constexpr, SHAPE: tl.constexpr,
):  # fmt: skip
    """One program per span and CHUNK of its pages."""
    span = tl.program_id(0)
    lane = tl.arange(0, CHUNK)
    before = 0
    for start in range(0, span, CHUNK):
        before += tl.sum(_pages(lengths, start + lane, 0, span, PAGE), 0)
    length = tl.load(lengths + span)
    count = (length + PAGE - 1) // PAGE
    row = tl.load(rows + span).to(tl.int64) * table_stride
    column = tl.program_id(1) * CHUNK + lane
    tl.store(pages + before + column, tl.load(table + row + column, mask=column < count), mask=column < count)
    if SHAPE:
        tl.store(ends + span + 1, before + count, mask=tl.program_id(1) == 0)
        tl.store(last + span, length - (count - 1) * PAGE, mask=tl.program_id(1) == 0)


def list_pages(
    table: Tensor,
    rows: Tensor,
    lengths: Tensor,
    most: int,
    page_size: int,
    pages: Tensor,
    ends: Tensor | None = None,
    last: Tensor | None = None,
) -> None:
    """Write into `pages` the pages of every span in turn: ceil(length / page_size) each, `most` at most.

    Where given, ends [S + 1] gets the place where each span's pages end (its first entry stays as it is) and
    last [S] the number of tokens in each span's last page. All int32, all on one device.
    """
    shape = ends is not None
    _list_pages[(rows.shape[0], triton.cdiv(most, CHUNK))](
        table, rows, lengths, pages, ends if shape else pages, last if shape else pages, table.stride(0),
        PAGE=page_size, CHUNK=CHUNK, SHAPE=shape, num_warps=4,
    )  # fmt: skip
