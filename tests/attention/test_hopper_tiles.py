"""One warp's attention over staged tiles, as decode.cu runs it: tiles.h compiled for this machine.

`lanes.h` beside this file stands for the instructions of a warp; tiles are staged as the copy engine would.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import baton.attention
from baton.attention.hopper.decode import _Step

HEADERS = Path(baton.attention.__path__[0]) / "hopper"
TILE = 16
SHIM = """
#include "tiles.h"
using namespace baton;
namespace {
const Step* step;
const int* bounds;
int tiles;
float* part;
void work(int lane) {
    Segment segment{1, 2, 0, tiles, tiles};
    const int* starts = step->starts;
    const Tokens tokens = starts ? Tokens{starts[1], starts[2] - starts[1]} : Tokens{1, 1};
    const auto run = [&](auto running, auto& q) {
        load_queries(q, *step, segment.head, tokens, lane);
        running.clear();
        for (int i = 0; i < tiles; ++i)
            running.fold(i * STAGE_BYTES, q, tokens, step->scale, bounds[2 * i], bounds[2 * i + 1], lane);
        running.store(*step, segment, tokens, lane);
        running.lay_out(part, lane);
    };
    Queries<WIDE> all;
    Queries<NARROW> few;
    if (tokens.count * GROUP > NARROW * 8) run(Running<WIDE>(), all);
    else run(Running<NARROW>(), few);
}
}
extern "C" int fold(const Step* step_, const uint8_t* staged, const int* bounds_, int tiles_, float* part_) {
    step = step_, bounds = bounds_, tiles = tiles_, part = part_;
    memcpy(shared, staged, tiles * STAGE_BYTES);
    run_warp(work);
    return sizeof(Step);
}
"""

BATCH, KV_HEADS = 3, 4
"""Of the step; the pair is sequence 1's head 2."""


def compiled(folder: Path, head_dim: int, group: int, eight_bits: bool, lines: int = 1) -> ctypes.CDLL:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    (folder / "shim.cpp").write_text(SHIM)
    made = folder / "tiles.so"
    command = [compiler, "-std=c++17", "-O1", "-Wno-unknown-pragmas", "-shared", "-fPIC", f"-I{HEADERS}"]
    command += [f"-DHEAD_DIM={head_dim}", f"-DGROUP={group}", f"-DEIGHT_BITS={int(eight_bits)}"]
    command += [f"-DLINES={lines}"]
    command += [f'-DBATON_LANES="{Path(__file__).parent / "lanes.h"}"']
    done = subprocess.run(
        [*command, "-o", str(made), str(folder / "shim.cpp")], capture_output=True, text=True
    )
    if done.returncode and "_Float16" in done.stderr:
        pytest.skip("the C++ compiler has no _Float16")
    assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(made))


def staged(kv: torch.Tensor) -> torch.Tensor:
    """kv [tiles, 2, TILE, head_dim] as the copy engine leaves it: rows of at most 128 bytes, the halves of a
    head after each other, 16-byte pieces exchanged by the address's bits from 128 on."""
    raw = kv.contiguous().view(torch.uint8)
    row = min(raw.shape[-1], 128)
    flat = raw.view(*raw.shape[:-1], -1, row).transpose(2, 3).flatten()
    place = torch.arange(flat.numel())
    swizzled = place ^ ((place >> 7) % (row // 16) << 4)
    out = torch.empty_like(flat)
    out[swizzled] = flat
    return out


@pytest.mark.parametrize(
    ("head_dim", "group", "dtype"),
    [
        (128, 2, torch.float8_e4m3fn),
        (128, 16, torch.float8_e4m3fn),
        (64, 5, torch.float8_e4m3fn),
        (128, 5, torch.bfloat16),
        (64, 2, torch.bfloat16),
    ],
    ids=str,
)
def test_a_warp_folds_tiles_into_a_softmax(
    head_dim: int, group: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Five tiles, the first and the last of which are not all of the sequence: there lies no number."""
    torch.manual_seed(0)
    tiles, low, high = 5, 3, 9
    eight_bits = dtype == torch.float8_e4m3fn
    warp = compiled(tmp_path, head_dim, group, eight_bits)
    kv = torch.randn(tiles, 2, TILE, head_dim).to(dtype)
    keys, values = kv.float().transpose(0, 1).flatten(1, 2)[:, low : (tiles - 1) * TILE + high]
    stale = kv.view(torch.uint8 if eight_bits else torch.int16)
    stale[0, :, :low] = stale[-1, :, high:] = 0x7F if eight_bits else 0x7FC0
    heads = KV_HEADS * group
    q = 2 * torch.randn(BATCH, heads + 5, head_dim).bfloat16()
    if eight_bits:
        q[1, 2 * group, 0] = 1e30  # beyond what queries can be here
        keys[:, 0] = 0
        kv[:, 0, :, 0] = 0
    out = torch.full((BATCH, heads, head_dim), float("nan"), dtype=torch.bfloat16)
    part = torch.full((group * head_dim + 2 * group,), float("nan"))
    scale, value_scale = head_dim**-0.5 * 1.5, 0.5
    step = _Step(
        q=q.data_ptr(), out=out.data_ptr(), q_stride=q.stride(0), batch=BATCH, kv_heads=KV_HEADS,
        scale=scale * 1.4426950408889634, value_scale=value_scale,
    )  # fmt: skip
    bounds = [low, TILE, *[0, TILE] * (tiles - 2), 0, high]
    tiles_staged = staged(kv)
    bytes_of_step = warp.fold(
        ctypes.byref(step), ctypes.c_void_p(tiles_staged.data_ptr()), (ctypes.c_int * len(bounds))(*bounds),
        tiles, ctypes.c_void_p(part.data_ptr()),
    )  # fmt: skip
    assert bytes_of_step == ctypes.sizeof(_Step)

    asked = q[1, 2 * group : 3 * group].float()
    logits = asked @ keys.T * scale
    wanted = torch.softmax(logits, -1) @ values
    got = out[1, 2 * group : 3 * group].float() / value_scale
    assert float((got - wanted).norm() / wanted.norm()) < 5e-3
    written = out.clone()
    written[1, 2 * group : 3 * group] = float("nan")
    assert bool(written.isnan().all()), "it wrote into other rows"
    sums, ends = part[: group * head_dim].view(group, head_dim), part[group * head_dim :].view(group, 2)
    torch.testing.assert_close(ends[:, 0], logits.amax(-1) * 1.4426950408889634, rtol=1e-3, atol=1e-3)
    unscaled = sums / ends[:, 1:]
    assert float((unscaled - wanted).norm() / wanted.norm()) < 5e-3


@pytest.mark.parametrize(
    ("head_dim", "group", "lines", "count", "dtype"),
    [
        (128, 5, 3, 3, torch.bfloat16),
        (128, 5, 3, 2, torch.bfloat16),
        (64, 2, 8, 7, torch.bfloat16),
        (128, 4, 4, 4, torch.float8_e4m3fn),
        (128, 8, 2, 1, torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("last", [16, 9, 1])
def test_tokens_that_follow_each_other_share_what_they_read(
    last: int, head_dim: int, group: int, lines: int, count: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Each sees one key more than the one before; the first may see nothing of the last tile."""
    torch.manual_seed(0)
    tiles, first = 3, 4
    eight_bits = dtype == torch.float8_e4m3fn
    warp = compiled(tmp_path, head_dim, group, eight_bits, lines)
    kv = torch.randn(tiles, 2, TILE, head_dim).to(dtype)
    length = (tiles - 1) * TILE + last
    keys, values = kv.float().transpose(0, 1).flatten(1, 2)[:, :length]
    kv.view(torch.uint8 if eight_bits else torch.int16)[-1, :, last:] = 0x7F if eight_bits else 0x7FC0
    heads = KV_HEADS * group
    q = 2 * torch.randn(first + lines + 1, heads + 5, head_dim).bfloat16()
    out = torch.full((first + lines + 1, heads, head_dim), float("nan"), dtype=torch.bfloat16)
    queries = group * lines
    part = torch.full((queries * head_dim + 2 * queries,), float("nan"))
    starts = torch.tensor([0, first, first + count, 99], dtype=torch.int32)
    scale = head_dim**-0.5
    step = _Step(
        q=q.data_ptr(), out=out.data_ptr(), q_stride=q.stride(0), batch=BATCH, kv_heads=KV_HEADS,
        scale=scale * 1.4426950408889634, value_scale=1.0, starts=starts.data_ptr(),
    )  # fmt: skip
    own = slice(2 * group, 3 * group)

    def fold(which: range) -> None:
        bounds = [b for i in which for b in (0, length - i * TILE)]
        held = staged(kv[list(which)])
        warp.fold(
            ctypes.byref(step), ctypes.c_void_p(held.data_ptr()), (ctypes.c_int * len(bounds))(*bounds),
            len(which), ctypes.c_void_p(part.data_ptr()),
        )  # fmt: skip

    def wanted(line: int, begin: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        end = length - (count - 1 - line)
        logits = q[first + line, own].float() @ keys[begin:end].T * scale
        return torch.softmax(logits, -1) @ values[begin:end], logits

    fold(range(tiles))
    for line in range(count):
        want, _ = wanted(line)
        got = out[first + line, own].float()
        assert float((got - want).norm() / want.norm()) < 5e-3, line
    written = out.clone()
    written[first : first + count, own] = float("nan")
    assert bool(written.isnan().all()), "it wrote into other rows"

    fold(range(tiles - 1, tiles))  # the last tile alone, as a part of several
    sums, ends = (
        part[: queries * head_dim].view(queries, head_dim),
        part[queries * head_dim :].view(queries, 2),
    )
    for line in range(count):
        mine = slice(line * group, (line + 1) * group)
        want, logits = wanted(line, (tiles - 1) * TILE)
        if logits.shape[1] == 0:
            assert not ends[mine, 1].any() and not sums[mine].any(), "nothing that it may see"
            continue
        assert float((sums[mine] / ends[mine, 1:] - want).norm() / want.norm()) < 5e-3, line
