"""Memory at the start: what does not suffice names the setting to change."""

from __future__ import annotations

import pytest
import torch

from baton.cache.pool import PoolShape, fit_memory, free_bytes
from baton.core.errors import InvalidSetting
from baton.engine.rehearsal import enough_memory_for

CPU = torch.device("cpu")


def test_too_little_memory_names_the_setting_and_what_it_was_for() -> None:
    with (
        pytest.raises(InvalidSetting, match="the largest step: lower it, or graph_max_batch") as caught,
        enough_memory_for("the largest step", "prefill_budget", "lower it, or graph_max_batch"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB. GPU 0 has ...")
    assert caught.value.setting == "prefill_budget"
    assert "out of memory" in str(caught.value)


def test_other_errors_pass() -> None:
    with (
        pytest.raises(RuntimeError, match="another"),
        enough_memory_for("the weights", "tensor_parallel", "raise it"),
    ):
        raise RuntimeError("another")


def test_the_pool_leaves_what_steps_need() -> None:
    shape = PoolShape(kv_heads=2, layers=2, page_size=16, head_dim=64, itemsize=2)
    half = free_bytes(CPU) // 4
    whole = fit_memory(shape, CPU, 0.5, max_model_len=16)
    rest = fit_memory(shape, CPU, 0.5, reserved=half, max_model_len=16)
    missing = (whole.pages - rest.pages) * shape.page_bytes
    assert missing == pytest.approx(half, rel=0.3), "other processes come and go meanwhile"
    with pytest.raises(InvalidSetting, match="memory_fraction"):
        fit_memory(shape, CPU, 0.1, reserved=1 << 50, max_model_len=16)
