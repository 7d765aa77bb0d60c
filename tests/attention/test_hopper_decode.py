"""What the Hopper decode kernel refuses, and how it is built: everything that needs no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from baton.attention.hopper import HopperDecode, Tuning
from baton.attention.hopper.compiler import build, cubin_path, find_nvcc
from baton.core.errors import Misconfigured


def pool(
    kv_heads: int = 8, page_size: int = 16, head_dim: int = 128, dtype: torch.dtype = torch.bfloat16
) -> torch.Tensor:
    return torch.zeros(3, kv_heads, 2, 2, page_size, head_dim, dtype=dtype)


@pytest.mark.parametrize(
    ("shape", "heads", "reason"),
    [
        (pool(), 16, "not in GPU memory"),
        (pool(dtype=torch.float8_e4m3fn), 16, "not in GPU memory"),
        (pool(dtype=torch.float8_e5m2), 16, "float8_e5m2"),
        (pool(dtype=torch.float16), 16, "float16"),
        (pool(head_dim=96), 16, "head_dim is 96"),
        (pool(page_size=24), 16, "page size 24"),
        (pool(), 12, "no whole ratio"),
        (pool(), 17 * 8, "no whole ratio"),
        (pool(kv_heads=4), 16, "[page, 8, layer"),
        (pool().transpose(1, 2), 16, "contiguous"),
    ],
)
def test_it_says_why_it_does_not_serve_a_pool(shape: torch.Tensor, heads: int, reason: str) -> None:
    found = HopperDecode.supported(shape, heads, 8)
    assert found is not None and reason in found


def test_constructing_it_for_such_a_pool_raises_the_reason() -> None:
    with pytest.raises(Misconfigured, match="head_dim is 96"):
        HopperDecode(pool(head_dim=96), 16, 8, 1.0, 1)


def test_queries_are_bfloat16_whatever_the_pool_is() -> None:
    for kind in (torch.bfloat16, torch.float8_e4m3fn):
        found = HopperDecode.supported(pool(dtype=kind), 16, 8, dtype=torch.float16)
        assert found == "queries are torch.float16, not bfloat16"


def test_it_says_when_batches_or_the_ring_are_too_large() -> None:
    assert "max_batch" in (HopperDecode.supported(pool(), 16, 8, max_batch=5000) or "")
    assert "shared memory" in (HopperDecode.supported(pool(), 16, 8, tuning=Tuning(stages=4)) or "")


def test_without_nvcc_it_names_the_file_that_would_do(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"needs nvcc .*decode-128-2x1-[0-9a-f]{16}\.cubin"):
        build(tmp_path, None, 128, 2, Tuning())


def test_a_failing_compiler_is_reported_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="could not compile"):
        build(tmp_path, "/bin/false", 128, 2, Tuning())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("eight_bits", [False, True])
def test_a_built_kernel_is_used_again_without_nvcc(eight_bits: bool, tmp_path: Path) -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc")
    made = build(tmp_path, nvcc, 64, 1, Tuning(), eight_bits)
    assert made[:4] == b"\x7fELF" and b"decode" in made
    assert build(tmp_path, None, 64, 1, Tuning(), eight_bits) == made
    assert list(tmp_path.iterdir()) == [cubin_path(tmp_path, 64, 1, Tuning(), eight_bits)]


def test_every_choice_has_a_name_of_its_own(tmp_path: Path) -> None:
    choices = [(128, 2, Tuning()), (64, 2, Tuning()), (128, 4, Tuning()), (128, 2, Tuning(least=3))]
    choices.append((128, 2, Tuning(), True))
    assert len({cubin_path(tmp_path, *choice) for choice in choices}) == len(choices)
