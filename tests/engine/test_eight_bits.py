"""With keys and values in eight bits, greedy output is that of transformers with the same rounding."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests import rounded
from tests.checkpoints import Checkpoint, Make
from tests.engine import test_exact
from tests.engine.inline import Inline
from tests.engine.test_exact import GREEDY, TOKENS

from baton.core.errors import InvalidSetting
from baton.engine import LLM
from baton.engine.config import EngineConfig
from baton.protocol.pods import Hello, unfit

SCALES = [(0.5, 2.0), (0.011, 0.003), (1.0, 0.25)]
"""Of keys and values, by layer; the second's are so small that numbers are cut off."""

Answers = dict[str, list[list[int]]]


def prompts() -> list[list[int]]:
    return test_exact.prompts()[:24]


@pytest.fixture(scope="module")
def answers() -> Answers:
    return {}


def wanted(answers: Answers, name: str, made: Checkpoint) -> list[list[int]]:
    if name not in answers:
        answers[name] = [rounded.greedy(made.model, prompt, TOKENS) for prompt in prompts()]
    return answers[name]


@pytest.mark.parametrize("name", ["llama-llama3-tied", "mistral-window", "qwen3", "qwen3-moe"])
def test_tokens_are_those_of_transformers_with_rounded_keys_and_values(
    name: str, checkpoint: Make, answers: Answers
) -> None:
    made = checkpoint(name)
    want = wanted(answers, name, made)
    with Inline(made.directory, kv_cache_dtype="fp8") as served:
        assert served.tokens(prompts(), GREEDY) == want
        assert served.tokens(prompts(), GREEDY) == want, "with every prompt cached"
        assert served.built.runner.pool.dtype == torch.float8_e4m3fn
    small = {"prefill_budget": 16, "mixed": True, "page_size": 4, "pages": 90, "max_model_len": 256}
    with Inline(made.directory, kv_cache_dtype="fp8_e4m3", **small) as served:
        assert served.tokens(prompts(), GREEDY) == want, "chunked, mixed, in a small pool"
    with Inline(made.directory) as served:
        assert served.tokens(prompts(), GREEDY) != want, "rounding changes nothing here: nothing was shown"


def test_two_ranks_round_alike(checkpoint: Make, answers: Answers) -> None:
    made = checkpoint("qwen3")
    settings = {"tensor_parallel": 2, "pages": 2048, "max_running": 64, "prefill_budget": 64, "threads": 1}
    with LLM(str(made.directory), kv_cache_dtype="fp8", **settings) as llm:
        for _ in range(2):  # the second time cached
            found = [list(output.token_ids) for output in llm.generate(prompts(), GREEDY)]
            assert found == wanted(answers, "qwen3", made)


@pytest.fixture(scope="module")
def scaled(checkpoint: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that states scales of its keys and values."""
    directory = tmp_path_factory.mktemp("scaled")
    tensors = load_file(checkpoint("qwen3").directory / "model.safetensors")
    for layer, (k, v) in enumerate(SCALES):
        at = f"model.layers.{layer}.self_attn."
        tensors |= {f"{at}k_scale": torch.tensor([k]), f"{at}v_scale": torch.tensor(v)}
    save_file(tensors, directory / "model.safetensors")
    shutil.copy(checkpoint("qwen3").directory / "config.json", directory)
    return directory


def test_the_checkpoints_scales_are_used(scaled: Path, checkpoint: Make, answers: Answers) -> None:
    made = checkpoint("qwen3")
    want = [rounded.greedy(made.model, prompt, TOKENS, SCALES) for prompt in prompts()]
    assert want != wanted(answers, "qwen3", made)
    with Inline(scaled, kv_cache_dtype="fp8", prefill_budget=64) as served:
        assert served.tokens(prompts(), GREEDY) == want
        pool = served.built.runner.pool.float()
        assert bool(pool.isfinite().all())
        assert float(pool[:, :, 1].abs().max()) == 448, "nothing was cut off: choose smaller scales"


def test_a_page_takes_one_byte_a_number_and_has_an_identity_of_its_own(scaled: Path) -> None:
    facts = {}
    for dtype in ("auto", "fp8", "fp8_e4m3"):
        with Inline(scaled, kv_cache_dtype=dtype, handover=True) as served:
            facts[dtype] = served.built.facts(0.0)
            (layout,) = served.built.layouts
            assert layout.page_bytes == facts[dtype].page_bytes == served.built.runner.pool[0].nbytes
            facts[layout.fingerprint()] = layout
    auto, eight, alias = facts["auto"], facts["fp8"], facts["fp8_e4m3"]
    assert auto.page_bytes == 4 * eight.page_bytes
    assert (auto.kv_dtype, eight.kv_dtype) == ("", "float8_e4m3fn")
    assert auto.fingerprint != eight.fingerprint == alias.fingerprint
    assert len(facts) == 5, "three names, two layouts"
    wide, small, same = (
        Hello(version=1, worker="w", role="prefill", fingerprint=one.fingerprint, page_size=16, ranks=(b"r",))
        for one in (auto, eight, alias)
    )
    assert "kv_cache_dtype" in unfit(wide, small) and unfit(small, same) == "", "only the same kind pairs"


def test_other_scales_are_other_pages(scaled: Path, checkpoint: Make) -> None:
    def fingerprint(directory: Path, dtype: str) -> bytes:
        with Inline(directory, kv_cache_dtype=dtype) as served:
            return served.built.facts(0.0).fingerprint

    plain = checkpoint("qwen3").directory
    assert fingerprint(plain, "fp8") != fingerprint(scaled, "fp8")


def test_a_kind_that_is_not_served_is_refused_by_name() -> None:
    with pytest.raises(InvalidSetting, match="kv_cache_dtype: must be auto, fp8 or fp8_e4m3, not 'fp8_e5m2'"):
        EngineConfig(model="m", kv_cache_dtype="fp8_e5m2")  # type: ignore[arg-type]
