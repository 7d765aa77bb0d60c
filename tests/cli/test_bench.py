"""`baton bench offline` from end to end, alone and against transformers, on very small models."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints import Make, checkpoint

from baton.cli.__main__ import main
from baton.cli.bench.against import AGAINST, BATCH, Setup, Transformers
from baton.cli.bench.work import Range, Work
from baton.core.errors import InvalidSetting
from baton.core.types import SamplingParams
from baton.tiny import model_path

__all__ = ["checkpoint"]

SMALL = ["--num-prompts", "5", "--input-len", "4:9", "--output-len", "3:7", "--pages", "64", "--threads", "1"]


def offline(*words: str) -> int:
    return main(["bench", "offline", *SMALL, *words])


def setup(checkpoint: Make, **changes: Any) -> Setup:
    made = Setup(
        model=str(checkpoint("llama").directory), dummy=False, device="cpu", dtype="float32", threads=1,
        sampling=SamplingParams(temperature=0.0),
    )  # fmt: skip
    return replace(made, **changes)


def test_a_run_tells_its_rate_and_writes_everything_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "report.json"
    settings = (
        "--max-model-len",
        "64",
        "--repeat",
        "2",
        "--seed",
        "7",
        "--no-overlap",
        "--json",
        str(report),
    )
    assert offline("--model", str(model_path()), *settings) == 0
    told = capsys.readouterr()
    assert len(re.findall(r"^baton: [\d,.]+ output tokens/s \(\d+ in ", told.out, re.MULTILINE)) == 2
    assert "median of 2 passes: " in told.out
    assert "cpu float32, attention torch, 64 pages of 16 tokens, max_model_len 64, TP 1" in told.err
    written = json.loads(report.read_text())
    assert written["seed"] == 7 and written["num_prompts"] == 5 and written["input_len"] == "4:9"
    assert written["settings"]["overlap"] is False and written["settings"]["pages"] == 64
    assert [one["seed"] for one in written["passes"]] == [7, 8]
    for one in written["passes"]:
        work = Work.make(5, Range(4, 9), Range(3, 7), 1536, one["seed"])
        assert one["baton"]["output_tokens"] == work.tokens
        assert one["baton"]["prompt_tokens"] == sum(map(len, work.prompts))
        assert one["baton"]["cached_tokens"] == 0 and one["baton"]["seconds"] > 0


def test_it_runs_against_transformers_in_turn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], checkpoint: Make
) -> None:
    report = tmp_path / "report.json"
    both = ("--against", "transformers", "--against", "transformers-batched", "--temperature", "0")
    words = ("--model", str(checkpoint("llama").directory), "--repeat", "3", "--json", str(report))
    assert offline(*words, *both) == 0
    out = capsys.readouterr().out
    turns = re.findall(r"^([\w-]+): [\d,.]+ output tokens/s", out, re.MULTILINE)
    assert turns == ["baton", "transformers", "transformers-batched"] * 3
    written = json.loads(report.read_text())
    for name in AGAINST:
        ratios = sorted(one["rivals"][name] / one["baton"]["seconds"] for one in written["passes"])
        assert written["ratios"][name] == pytest.approx(ratios[1])
        assert f"baton / {name}: {ratios[1]:.2f}x ({ratios[0]:.2f} to {ratios[2]:.2f})" in out


class Recording(Transformers):
    """Notes what it is asked to generate before it does."""

    def __init__(self, setup: Setup, batch: int) -> None:
        self.asked: list[tuple[list[int], int]] = []
        super().__init__(setup, batch)

    def _generate(self, prompts: list[tuple[int, ...]], count: int) -> None:
        self.asked.append(([len(prompt) for prompt in prompts], count))
        super()._generate(prompts, count)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_transformers_makes_just_the_tokens_that_are_counted(checkpoint: Make, temperature: float) -> None:
    work = Work(prompts=((5,) * 3, (6,) * 9, (7,) * 4), outputs=(2, 8, 5))
    alone = Recording(setup(checkpoint, sampling=SamplingParams(temperature=temperature)), 1)
    alone.run(work)
    assert alone.asked[1:] == [([3], 2), ([9], 8), ([4], 5)], "after the warm-up, each as long as asked"
    together = Recording(setup(checkpoint, sampling=SamplingParams(temperature=temperature)), 2)
    together.run(work)
    assert together.asked == [([16, 16], 4), ([3, 9], 8), ([4], 5)]


def test_transformers_computes_as_the_engine_does(checkpoint: Make) -> None:
    import torch

    for dummy in (False, True):
        rival = Transformers(setup(checkpoint, dummy=dummy, dtype="bfloat16"), 1)
        assert rival._model.dtype is torch.bfloat16 and torch.get_num_threads() == 1
        assert not rival._model.training
        same = torch.equal(
            rival._model.lm_head.weight.float(), checkpoint("llama").model.lm_head.weight.bfloat16().float()
        )
        assert same == (not dummy)


def test_names_say_what_runs(checkpoint: Make) -> None:
    sizes = {name: make(setup(checkpoint))._batch for name, make in AGAINST.items()}  # type: ignore[attr-defined]
    assert sizes == {"transformers": 1, "transformers-batched": BATCH}


def test_work_is_the_same_for_everybody() -> None:
    """The draws of the small engines' common benchmark."""
    work = Work.make(256, Range(100, 1024), Range(100, 1024), 151_936, seed=0)
    assert work.tokens == 133_966
    assert work == Work.make(256, Range(100, 1024), Range(100, 1024), 151_936, seed=0)
    assert work != Work.make(256, Range(100, 1024), Range(100, 1024), 151_936, seed=1)
    assert {len(p) for p in Work.make(9, Range(5, 5), Range(1, 1), 50, 0).prompts} == {5}


@pytest.mark.parametrize("text", ["", "a", "5:4", "0", "-1:3", "1:2:3"])
def test_lengths_that_cannot_be_are_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidSetting, match=r"^input-len: must"):
        Range.parse(text, "input-len")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--output-len", "9:3"], "output-len: must have 1 ≤ LOW ≤ HIGH, not '9:3'"),
        (["--page-size", "0"], "page_size: must be between 1 and 1024"),
    ],
)
def test_mistakes_are_told_before_anything_starts(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert offline("--model", str(model_path()), *words) == 2
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--repeat", "0"], ["--num-prompts", "0"], ["--against", "vllm"]])
def test_options_that_cannot_be_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        offline("--model", "m", *words)
    assert ended.value.code == 2


def test_benches_are_listed_and_unknown_ones_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == main(["bench", "--help"]) == 0
    assert "offline" in capsys.readouterr().out
    assert main(["bench", "ofline"]) == 2
    assert "did you mean offline?" in capsys.readouterr().err


def test_a_server_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "online", "--url", "http://127.0.0.1:9"]) == 1
    assert "no server answers on http://127.0.0.1:9" in capsys.readouterr().err
