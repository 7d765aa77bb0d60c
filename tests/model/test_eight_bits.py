"""A decoder over an eight-bit pool: transformers' logits with the same rounding, and not far from its own."""

from __future__ import annotations

import pytest
import torch
from tests import rounded
from tests.checkpoints import Make
from tests.model.test_weights import loaded

from baton.testing.paged import PagedSequences

FAR = 5e-3
"""A number between two may go either way by the last bit of a sum, which moves logits by less than this."""


@pytest.mark.parametrize("name", ["llama-linear-biased", "mistral-window", "qwen2", "qwen3", "qwen3-moe"])
def test_logits_move_by_the_rounding_and_no_more(name: str, checkpoint: Make) -> None:
    made = checkpoint(name)
    decoder = loaded(made.directory)
    sequence = PagedSequences(decoder, [len(made.prompt)], 4, kv_dtype=torch.float8_e4m3fn)
    halves = made.prompt[:20], made.prompt[20:]
    got = torch.cat([sequence.step([(0, half)]) for half in halves])
    assert float((got - rounded.logits(made.model, made.prompt)).abs().max()) < FAR
    moved = float((got - made.logits).norm() / made.logits.norm())
    assert 1e-3 < moved < 0.1, f"relative error against unrounded keys and values: {moved:.4f}"


def test_the_reference_rounds_as_torch_does() -> None:
    """To the nearest, of two the even; beyond the largest, to that."""
    x = torch.cat([torch.randn(5000) * 10 ** torch.linspace(-4, 2, 5000), torch.arange(-448, 449) / 16])
    assert torch.equal(rounded.eight_bits(x), x.to(torch.float8_e4m3fn).float())
    assert rounded.eight_bits(torch.tensor([1e6, -449.0, float("inf")])).tolist() == [448.0, -448.0, 448.0]
