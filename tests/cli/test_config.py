"""`baton config`: any service's settings, listed and explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from baton.cli.config import SETTINGS, main
from baton.core.errors import InvalidSetting


def test_a_name_alone_lists_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["logs"])
    assert stop.value.code == 0
    assert "usage: baton config logs" in capsys.readouterr().out


def test_explain_shows_a_flag_and_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "logs.toml"
    file.write_text('format = "json"\n')
    with pytest.raises(SystemExit):
        main(["logs", "--explain", "--config", str(file), "--level", "debug"])
    listing = capsys.readouterr().out
    assert "level = debug    [--level]" in listing
    assert f"format = json    [file {file}]" in listing


def test_settings_that_are_only_checked_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", "--level", "debug"]) == 0
    assert capsys.readouterr().out == ""


def test_any_class_can_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["baton.telemetry.logs:LogSettings", "--level=error"]) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lgos", "did you mean logs?"),
        ("baton.absent:Settings", "cannot import baton.absent:Settings"),
        ("baton.telemetry:Absent", "cannot import baton.telemetry:Absent"),
        ("pathlib:Path", "is no settings class"),
        ("baton.telemetry:CONTENT_TYPE", "is no settings class"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, message: str) -> None:
    with pytest.raises(InvalidSetting, match="NAME: ") as caught:
        main([name, "--explain"])
    assert message in str(caught.value)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_every_registered_name_leads_somewhere(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([name])
    assert f"usage: baton config {name}" in capsys.readouterr().out


def test_the_reference_in_the_docs_is_in_step(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--reference"]) == 0
    written = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out == written, "run: baton config --reference > docs/configuration.md"


def test_without_a_name_it_asks_for_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2 and "give a NAME" in capsys.readouterr().err
