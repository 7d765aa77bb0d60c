"""A model split over ranks answers as it does whole: KV heads shared and copied, vocabulary padded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.checkpoints import Make
from tests.model import rank_work

from baton.parallel import SingleRank
from baton.testing.ranks import run_ranks

# 2 KV heads: one each with 2 ranks, one for two with 4. 101 tokens: padded to 102 and 104.
SPLIT = ("llama-linear-biased", "qwen3", "qwen3-moe", "qwen2-window")


@pytest.mark.parametrize("size", [2, 4])
def test_logits_are_the_same_over_any_number_of_ranks(size: int, checkpoint: Make, tmp_path: Path) -> None:
    models = [(str(checkpoint(name).directory), "auto") for name in SPLIT]
    models += [(directory, "dummy") for directory, _ in models]
    prompt = checkpoint(SPLIT[0]).prompt
    whole = rank_work.logits(SingleRank(), models, prompt)
    found = run_ranks(
        size,
        rank_work.logits,
        models,
        prompt,
        meeting=tmp_path / "meeting",
    )
    for answers in found:
        for (directory, load_format), wanted, answer in zip(models, whole, answers, strict=True):
            for step, (one, many) in enumerate(zip(wanted, answer, strict=True)):
                assert many.shape == (len(one), 101)
                torch.testing.assert_close(
                    many,
                    one,
                    rtol=0,
                    atol=1e-4,
                    msg=lambda text, at=(directory, load_format, step): f"{at}: {text}",
                )
