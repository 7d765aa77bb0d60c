"""A model split over two GPUs in bf16: the logits of a float32 reference, within bf16's rounding."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

from tests.gpu import rank_work
from tests.gpu.test_engine import model

from baton.testing.ranks import run_ranks

__all__ = ["model"]

pytestmark = [pytest.mark.gpu, pytest.mark.multi_gpu]


@pytest.mark.parametrize("all_reduce", ["nccl", "peer"])
def test_bf16_logits_of_two_ranks_are_within_rounding(
    model: tuple[Path, Any], tmp_path: Path, all_reduce: str
) -> None:
    """In chunks, and token by token."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device")
    directory, reference = model
    chance = random.Random(7)
    prompt = [chance.randrange(1000) for _ in range(330)]
    with torch.inference_mode():
        want = reference(torch.tensor([prompt], device="cuda")).logits[0].cpu()
    asked = (str(directory), "bfloat16", [96, 192, 300], prompt)
    found = run_ranks(
        2, rank_work.logits, *asked, meeting=tmp_path / "meeting", device="cuda", all_reduce=all_reduce
    )
    assert torch.equal(*found), "ranks see different logits, and would draw different tokens"
    far = (found[0] - want).norm(dim=-1) / want.norm(dim=-1)
    assert float(far.max()) < 2e-2, f"relative error {float(far.max()):.4f}"
