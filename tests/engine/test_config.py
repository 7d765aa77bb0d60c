"""Settings that cannot be: found before any process starts, and named."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from baton.core.errors import InvalidSetting
from baton.engine.config import EngineConfig
from baton.engine.spec import RankSpec, decode, encode


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("device", "tpu", "cpu or cuda"),
        ("dtype", "int8", "auto, float32, bfloat16 or float16"),
        ("load_format", "gguf", "auto or dummy"),
        ("mixed", "yes", "true, false or auto"),
        ("mixed", 1, "true, false or auto"),
        ("tensor_parallel", 3, "1, 2, 4, 8 or 16"),
        ("tensor_parallel", 0, "1, 2, 4, 8 or 16"),
        ("page_size", 0, "between 1 and 1024"),
        ("page_size", 1025, "between 1 and 1024"),
        ("pages", 1, "2 and more"),
        ("pages", -5, "2 and more"),
        ("memory_fraction", 1.5, "between 0"),
        ("memory_fraction", -0.1, "between 0"),
        ("max_model_len", -1, "or more"),
        ("cache", "lru", "radix or naive"),
        ("max_running", 0, "1 or more"),
        ("max_queued", 0, "1 or more"),
        ("prefill_budget", -1, "0 (no limit) or more"),
        ("all_reduce", "ring", "auto, nccl or peer"),
        ("all_reduce", "peer", "auto or nccl on a CPU"),
        ("graph_max_batch", -1, "0 (no graphs) or more"),
        ("graph_max_tokens", -1, "0 (no graphs) or more"),
        ("threads", -1, "or more"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(setting: str, value: object, rule: str) -> None:
    with pytest.raises(InvalidSetting) as raised:
        EngineConfig(model="m", **{setting: value})  # type: ignore[arg-type]
    assert raised.value.setting == setting
    assert str(raised.value).startswith(f"{setting}: must be ")
    assert rule in str(raised.value) and str(raised.value).endswith(f"not {value!r}")


def test_the_edges_are_fine() -> None:
    EngineConfig(model="m", page_size=1024, pages=2, memory_fraction=1.0, max_running=1, tensor_parallel=16)
    EngineConfig(model="m", device="cuda", tensor_parallel=2, all_reduce="peer")


def test_an_unknown_setting_is_refused() -> None:
    with pytest.raises(TypeError, match="page_sise"):
        EngineConfig(model="m", page_sise=16)  # type: ignore[call-arg]


def test_settings_never_change() -> None:
    with pytest.raises(FrozenInstanceError):
        EngineConfig(model="m").pages = 3  # type: ignore[misc]


def test_a_rank_s_spec_survives_its_line() -> None:
    config = EngineConfig(model="dir with spaces\nand lines", tensor_parallel=2, dtype="bfloat16", pages=77)
    spec = RankSpec(
        config=config, rank=1, inbox="ipc:///a", outbox="ipc:///b", followers=("ipc:///c",), rendezvous="/d"
    )
    line = encode(spec)
    assert line.count(b"\n") == 1 and line.endswith(b"\n")
    assert decode(line) == spec
    assert decode(encode(replace(spec, rank=0))) != spec
