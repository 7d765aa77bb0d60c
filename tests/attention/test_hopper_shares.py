"""The division of a decode step among warps, as decode.cu runs it: shares.h compiled for this machine."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import baton.attention

HEADER = Path(baton.attention.__path__[0]) / "hopper" / "shares.h"
SHIM = """
#include "shares.h"
using namespace baton;
// Rows of (warp, seq, head, first, end, tiles, first owner, owner count); returns how many.
extern "C" int divide(const int* lengths, int batch, int heads, int window, int overhead, const int* each,
                      int warps, int least, int* prefix, int* out) {
    const Overheads overheads{overhead, each};
    prefix[0] = 0;
    for (int s = 0; s < batch; ++s)
        prefix[s + 1] = prefix[s] + pair_cost(tile_count(lengths[s], window), overheads.of(s));
    int total = prefix[batch] * heads, n = 0;
    if (total == 0) return 0;
    Division division(total, warps, least);
    for (int warp = 0; warp < division.active; ++warp) {
        Walk walk(prefix, batch, heads, overheads, division.begin(warp), division.count(warp));
        Segment segment;
        while (walk.next(segment)) {
            Owners owners(division, walk, segment);
            int row[8] = {warp, segment.seq, segment.head, segment.first, segment.end, segment.tiles,
                          owners.first, owners.count};
            for (int i = 0; i < 8; ++i) out[n * 8 + i] = row[i];
            ++n;
        }
    }
    return n;
}
"""


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("shares")
    (folder / "shim.cpp").write_text(SHIM)
    made = folder / "shares.so"
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Werror", "-shared", "-fPIC", f"-I{HEADER.parent}"]
    subprocess.run([*command, "-o", str(made), str(folder / "shim.cpp")], check=True)
    return ctypes.CDLL(str(made))


def divide(
    shares: ctypes.CDLL, lengths: list[int], heads: int, window: int, overhead: int, warps: int, least: int,
    each: list[int] | None = None,
) -> list[tuple[int, ...]]:  # fmt: skip
    batch = len(lengths)
    room = (batch * heads + warps) * 8
    out = (ctypes.c_int * room)()
    prefix = (ctypes.c_int * (batch + 1))()
    found = (ctypes.c_int * batch)(*lengths)
    own = None if each is None else (ctypes.c_int * batch)(*each)
    count = shares.divide(found, batch, heads, window, overhead, own, warps, least, prefix, out)
    return [tuple(out[i * 8 : i * 8 + 8]) for i in range(count)]


@settings(max_examples=300, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 700), min_size=1, max_size=40),
    heads=st.integers(1, 8),
    window=st.sampled_from([0, 1, 16, 100]),
    overhead=st.integers(0, 3) | st.lists(st.integers(0, 30), min_size=40, max_size=40),
    warps=st.integers(1, 120),
    least=st.integers(1, 8),
)
def test_every_tile_has_one_owner_and_every_pair_knows_them(
    shares: ctypes.CDLL,
    lengths: list[int],
    heads: int,
    window: int,
    overhead: int | list[int],
    warps: int,
    least: int,
) -> None:
    """Whether all pairs cost the same beside their tiles, or those of each sequence something else."""
    if isinstance(overhead, int):
        rows = divide(shares, lengths, heads, window, overhead, warps, least)
    else:
        rows = divide(shares, lengths, heads, window, 0, warps, least, overhead[: len(lengths)])
    pairs: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for row in rows:
        pairs.setdefault((row[1], row[2]), []).append(row)
    seen = {
        s: sum(1 for t in range(0, n, 16) if not window or t + 16 > n - window) for s, n in enumerate(lengths)
    }
    assert set(pairs) == {(s, h) for s, n in seen.items() if n for h in range(heads)}
    for (seq, _), parts in pairs.items():
        assert [p[3] for p in parts] == [0, *(p[4] for p in parts[:-1])], "gap or overlap"
        assert parts[-1][4] == seen[seq] and all(p[5] == seen[seq] for p in parts)
        assert [p[0] for p in parts] == list(range(parts[0][6], parts[0][6] + parts[0][7]))
        assert all(p[6:] == parts[0][6:] for p in parts)


def test_shares_differ_by_one_unit_at_most(shares: ctypes.CDLL) -> None:
    rows = divide(shares, [200 + 5 * i for i in range(240)], 8, 0, 0, 1056, 4)
    work = [0] * 1056
    for row in rows:
        work[row[0]] += row[4] - row[3]
    assert max(work) - min(work) <= 1
