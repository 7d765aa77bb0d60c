"""Scales of keys and values under every name that checkpoints give them, and those that cannot be meant."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.checkpoints import Make
from tests.model.test_weights import answers, changed, loaded

from baton.attention import Scales
from baton.core.errors import WeightMismatch
from baton.model.scales import read_scales

AT = "model.layers.{}.self_attn."


def stored(directory: Path, scales: dict[str, torch.Tensor]) -> Path:
    save_file(scales, directory / "model.safetensors")
    return directory


@pytest.mark.parametrize(
    ("k", "v"),
    [
        ("k_scale", "v_scale"),
        ("k_proj.k_scale", "v_proj.v_scale"),
        ("k_proj.output_scale", "v_proj.output_scale"),
    ],
    ids=["compressed-tensors", "modelopt", "llm-compressor"],
)
def test_every_known_name_is_read(k: str, v: str, tmp_path: Path) -> None:
    scales = {AT.format(1) + k: torch.tensor(0.5), AT.format(1) + v: torch.tensor([0.25]).bfloat16()}
    scales |= {
        AT.format(2) + v: torch.tensor([[3.0]]),
        AT.format(0) + "q_proj.output_scale": torch.tensor(7.0),
    }
    scales |= {"model.layers.0.mlp.k_scale": torch.tensor(7.0)}
    found = read_scales(stored(tmp_path, scales), 4)
    assert found == (Scales(), Scales(0.5, 0.25), Scales(1.0, 3.0), Scales())


def test_one_scale_may_be_of_both(tmp_path: Path) -> None:
    found = read_scales(stored(tmp_path, {AT.format(0) + "kv_scale": torch.tensor(0.125)}), 1)
    assert found == (Scales(0.125, 0.125),)


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan"), [0.5, 0.5]], ids=str)
def test_what_no_number_can_be_divided_by_is_refused(value: float | list[float], tmp_path: Path) -> None:
    directory = stored(tmp_path, {AT.format(0) + "k_scale": torch.tensor(value)})
    with pytest.raises(WeightMismatch, match=r"self_attn\.k_scale .*set kv_cache_dtype to auto"):
        read_scales(directory, 1)


def test_drawn_weights_have_none_and_no_weights_neither(tmp_path: Path) -> None:
    assert read_scales(tmp_path, 2, "dummy") == read_scales(tmp_path, 2) == (Scales(), Scales())


def test_they_are_in_nobodys_way_where_the_pool_is_no_smaller(checkpoint: Make, tmp_path: Path) -> None:
    names = ["k_scale", "v_scale", "q_scale", "kv_scale", "k_proj.output_scale"]
    made = checkpoint("qwen3")

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({AT.format(0) + name: torch.tensor(0.5) for name in names})

    directory = changed(made, tmp_path, change)
    assert len(load_file(directory / "model.safetensors")) > len(
        load_file(made.directory / "model.safetensors")
    )
    assert torch.equal(answers(loaded(directory), [3, 1, 4]), answers(loaded(made.directory), [3, 1, 4]))
