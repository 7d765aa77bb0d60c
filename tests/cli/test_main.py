"""The `baton` command: what it finds, what it says, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from baton.cli.__main__ import main
from baton.cli.commands import COMMANDS, Command
from baton.core.errors import InvalidSetting, PeerLost
from baton.core.version import version


def _greet(words: Sequence[str]) -> int:
    sys.stdout.write(f"hello {' '.join(words)}\n")
    return 7


def _mistake(words: Sequence[str]) -> int:
    raise InvalidSetting("cache.page_size", "must be a power of two")


def _failure(words: Sequence[str]) -> int:
    raise PeerLost("the router is gone")


def _interrupted(words: Sequence[str]) -> int:
    raise KeyboardInterrupt


CHOICE = {
    name: Command(f"{__name__}:{target.__name__}", f"Does {name}.")
    for name, target in [("greet", _greet), ("err", _mistake), ("fail", _failure), ("stop", _interrupted)]
}


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "baton.cli", *words]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PYTHONPATH": ":".join(sys.path)}
    )


def test_a_command_gets_the_words_after_its_name_and_gives_the_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["greet", "--to", "you"], CHOICE) == 7
    assert capsys.readouterr().out == "hello --to you\n"


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("err", 2, "baton err: cache.page_size: must be a power of two\n"),
        ("fail", 1, "baton fail: the router is gone\n"),
        ("stop", 130, ""),
        ("gret", 2, "baton: there is no command 'gret'; did you mean greet?\n"),
        ("zzz", 2, "baton: there is no command 'zzz'; known: err, fail, greet, stop\n"),
    ],
)
def test_what_goes_wrong_is_one_line_and_a_status(
    name: str, status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name], CHOICE) == status
    assert capsys.readouterr().err == message


def test_without_words_it_helps_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], CHOICE) == 2
    assert "greet  Does greet." in capsys.readouterr().err


def test_help_and_version_from_the_shell() -> None:
    helped, told = _run("--help"), _run("--version")
    assert (helped.returncode, told.returncode) == (0, 0)
    for name, command in COMMANDS.items():
        assert f"{name}  " in helped.stdout
        assert command.summary in helped.stdout
    assert told.stdout == f"baton {version()}\n"


def test_an_unknown_flag_is_refused() -> None:
    done = _run("--verison")
    assert done.returncode == 2
    assert "--verison" in done.stderr


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_can_be_loaded(name: str) -> None:
    assert callable(COMMANDS[name].load())


def test_help_imports_no_command_and_nothing_heavy() -> None:
    script = (
        "import sys\nfrom baton.cli.__main__ import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'nixl', 'numpy', 'transformers', 'httpx', 'baton.cli.config'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)\n"
    )
    environ = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=environ
    )
    assert done.returncode == 0, done.stderr


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m baton.cli config logs --help | true"
    environ = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, env=environ)
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words",
    [
        *(["status", "--url", url] for url in ("http://localhost:abc", "http://[::1", "http://:80")),
        ["status", "--pods", "a:b"],
        ["top", "--count", "1", "--url", "localhost:abc"],
        ["doctor", "--no-transfer", "--pods", "a:b"],
        ["chat", "hello", "--url", "http://[::1"],
        ["smoke", "--router", "http://localhost:abc", "--decode", "a:1", "--tokenizer", "t"],
        ["bench", "online", "--url", "http://[::1"],
        ["bench", "online", "--rate", "0"],
        ["bench", "online", "--num-prompts", "0"],
        ["bench", "online", "--json", "/nowhere/at/all.json"],
        ["config", ":X"],
        ["config", ".x:Y"],
    ],
    ids=" ".join,
)
def test_what_is_typed_wrong_is_a_mistake_and_no_traceback(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.startswith(f"baton {words[0]}: ")
