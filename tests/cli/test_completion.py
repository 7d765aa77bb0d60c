"""Shell completion, by the shells themselves where they are here."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from baton.cli.commands import COMMANDS
from baton.cli.completion import SHELLS, main, words


@pytest.fixture(scope="module")
def bash_script() -> str:
    return SHELLS["bash"](words())


def test_words_are_those_of_each_command_s_help() -> None:
    found = words()
    assert set(COMMANDS) < set(found[""])
    assert "--prefill" in found["up"] and "--url" in found["chat"] and "online" in found["bench"]
    assert "--rate" in found["bench online"] and "--engine.model" in found["config decode"]
    assert found["completion"] == ("bash", "fish", "zsh", "--help")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        (["co"], {"completion", "config"}),
        (["up", "--pre"], {"--prefill"}),
        (["bench", "of"], {"offline"}),
        (["bench", "online", "--ra"], {"--rate"}),
        (["config", "decode", "--engine.page"], {"--engine.page_size", "--engine.pages"}),
        (["chat", "--zzz"], set()),
    ],
)
def test_bash_offers_what_may_come(bash_script: str, typed: list[str], offered: set[str]) -> None:
    ask = f"COMP_WORDS=(baton {' '.join(typed)}); COMP_CWORD={len(typed)}; _baton; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "--norc", "-c", f"{bash_script}\n{ask}"], capture_output=True, text=True, check=True
    )
    assert set(done.stdout.split()) == offered, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_can_read_theirs(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([shell]) == 0
    script = capsys.readouterr().out
    assert "online" in script and "prefill" in script
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here to read it")
    subprocess.run([shell, "-n"], input=script, text=True, check=True)
