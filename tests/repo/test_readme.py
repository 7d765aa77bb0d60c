"""What the README and the docs tell people to type does what they say; what cannot run here at least exists.

A command runs for real unless it has gaps to be filled in, or needs a GPU, a cluster, a clean clone or an
installation. Clients talk to one `baton up` that all of this module shares, on a port of its own.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx
import pytest
from tests.repo.snippets import (
    FLAG,
    PAGES,
    PROGRAMS,
    ROOT,
    SHELL,
    Command,
    Snippet,
    commands,
    inline,
    links,
    snippets,
)

from baton.cli.commands import COMMANDS

START_S = 100.0
SHOWN = [snippet for page in PAGES for snippet in snippets(page)]
TYPED = [command for snippet in SHOWN for command in commands(snippet)]
SERVERS = re.compile(r"^(make run|baton up|python -m baton\.(router|prefill|decode))\b")
ELSEWHERE = {"docker", "git", "helm", "kubectl", "locust", "pip", "uv", "uvx", "make", "pytest"}
"""What needs a clean clone, a cluster, a network or a program of others. Targets of make are looked up, and
CI runs them."""
LIVE = re.compile(r"\bbaton top\b(?!.*--once)")
"""Goes on until it is stopped."""
OPEN_ENDED = ("--help", "--version")


def runs(command: Command) -> bool:
    if command.has_gaps or command.program in ELSEWHERE:
        return False
    return not SERVERS.match(command.text) and "cuda" not in command.words


class Up:
    """`baton up` as it is typed, but for its port; and a `baton` on the path, as installations have it."""

    def __init__(self, directory: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        directory.mkdir()
        for name, target in [("baton", "-m baton.cli"), ("python", ""), ("python3", "")]:
            script = directory / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {target} "$@"\n')
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        self.environ = {
            **os.environ, "PATH": f"{directory}:{os.environ['PATH']}", "COLUMNS": "120", "TERM": "xterm",
            "PYTHONPATH": ":".join([str(ROOT / "services"), str(ROOT / "shared"), *filter(None, sys.path)]),
            "PYTHONWARNINGS": "ignore",
        }  # fmt: skip
        self.log = directory / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                ["baton", "up", "--port", str(self.port), "--pages", "600"],
                stdout=log, stderr=log, env=self.environ, start_new_session=True,
            )  # fmt: skip

    def await_ready(self) -> None:
        end = time.monotonic() + START_S
        while not self._ready():
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()[-4000:]
            time.sleep(0.2)

    def _ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def here(self, text: str) -> str:
        """With this server's address in place of the usual one."""
        return re.sub(r"(localhost|127\.0\.0\.1):8000\b", rf"\1:{self.port}", text)

    def run(self, program: list[str], seconds: float = 100) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            program, cwd=ROOT, env=self.environ, input="What is a page?\n", capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            assert self.process.wait(60) == 0
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    made = Up(tmp_path_factory.mktemp("readme") / "bin")
    try:
        made.await_ready()
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("command", [one for one in TYPED if runs(one)], ids=str)
def test_a_command_does_what_it_says(command: Command, up: Up) -> None:
    text = re.sub(r"\s{2,}# .*$", "", up.here(command.text))  # more words may follow
    if command.program == "baton" and "--url" not in text and "--url" in told(command.words[1:2]):
        text += f" --url http://localhost:{up.port}"
    if "bench" in command.words and "--num-prompts" not in text:
        text += " --num-prompts 8"
    if command.program == "curl":
        text = text.replace("curl", "curl --fail-with-body --silent --show-error --max-time 60", 1)
    program = ["bash", "-c", text]
    if LIVE.search(command.text):
        done = up.run(["timeout", "8", *program])
        assert done.returncode in (0, 124), done.stderr
        return
    done = up.run(program)
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    if command.snippet.prints and commands(command.snippet)[-1] == command:
        shows(command.snippet.prints, done.stdout)


@pytest.mark.parametrize("snippet", [one for one in SHOWN if one.language == "python"], ids=str)
def test_python_does_what_it_says(snippet: Snippet, up: Up) -> None:
    compile(snippet.text, str(snippet), "exec")
    if re.search(r"\b(MODEL|cuda)\b", snippet.text):
        return
    done = up.run([sys.executable, "-c", up.here(snippet.text)])
    assert done.returncode == 0, done.stderr
    shows(snippet.prints, done.stdout)


def shows(prints: str, printed: str) -> None:
    """Line by line and in order; `…` stands for anything. Of JSON, the texts must be the same."""
    if prints.lstrip().startswith("{"):
        assert contents(json.loads(prints)) == contents(json.loads(printed))
        return
    rest = iter(printed.splitlines())
    for line in filter(None, map(str.strip, prints.splitlines())):
        pattern = re.sub(r"([\[\]?*])", r"[\1]", line).replace("…", "*")
        assert any(fnmatch.fnmatchcase(found.strip(), pattern) for found in rest), (
            f"{line!r} not in {printed!r}"
        )


def contents(value: object) -> list[object]:
    if isinstance(value, dict):
        mine = [value[key] for key in ("content", "text", "finish_reason") if key in value]
        return mine + [found for one in value.values() for found in contents(one)]
    return [found for one in value for found in contents(one)] if isinstance(value, list) else []


@cache
def help_of(*words: str) -> str:
    environ = {**os.environ, "PYTHONPATH": ":".join(filter(None, sys.path)), "COLUMNS": "200"}
    done = subprocess.run(
        [sys.executable, *words, "--help"], capture_output=True, text=True, check=False, env=environ, cwd=ROOT
    )
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def told(words: list[str]) -> str:
    """The help of a command of `baton`."""
    group = words[:2] if words[0] in ("bench",) else words[:1]
    return help_of("-m", "baton.cli", *group)


def manual(command: Command) -> str | None:
    """The help of whatever it starts; None if that is not ours."""
    words = command.words
    while re.match(r"\w+=", words[0]):
        words = words[1:]
    if words[0] == "baton":
        if len(words) == 1 or words[1].startswith("-"):
            return help_of("-m", "baton.cli")
        assert words[1] in COMMANDS, f"{command}: there is no such command"
        return "--help" if words[1] == "config" else told(words[1:])
    if (
        words[0].startswith("python")
        and len(words) > 2
        and words[1] == "-m"
        and words[2].startswith("baton.")
    ):
        return help_of("-m", words[2])
    if words[0].startswith("python") and len(words) > 1 and words[1].endswith(".py"):
        assert (ROOT / words[1]).exists(), command
        return help_of(words[1])
    return None


@pytest.mark.parametrize("command", TYPED, ids=str)
def test_what_is_typed_exists(command: Command) -> None:
    if command.program == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in [word for word in command.words[1:] if "=" not in word]:
            assert re.search(rf"^{target}:", makefile, re.M), f"{command}: no such target"
        return
    assert command.program in PROGRAMS or (ROOT / command.words[0]).exists(), f"{command}: what is that?"
    helped = manual(command)
    if helped is not None:
        for flag in FLAG.findall(re.sub(r"'[^']*'|\"[^\"]*\"", "", command.text.partition(" #")[0])):
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w.-])", helped) or flag in OPEN_ENDED, (
                f"{command}: {flag} is unknown"
            )


def test_make_run_is_baton_up() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(r"^run: \$\(LOCAL\).*\n\t@(exec )?\$\(RUN\) baton\.cli up \$\(ARGS\)$", makefile, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_the_text_names_exists(page: Path) -> None:
    missing = [link for link in links(page) if not (page.parent / link).exists()]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for words in inline(page):
        if target := re.fullmatch(r"make ([a-z-]+)(?: .*)?", words):
            missing += [] if re.search(rf"^{target[1]}:", makefile, re.M) else [words]
        if name := re.match(r"baton ([a-z]+)\b", words):
            missing += [] if name[1] in COMMANDS else [words]
        if re.fullmatch(r"--[a-z][\w.-]*", words):
            missing += [] if re.search(rf"(?<![\w-]){re.escape(words)}(?![\w.-])", every_help()) else [words]
    assert not missing


@cache
def every_help() -> str:
    ours = [help_of("-m", "baton.cli", name) for name in COMMANDS if name not in ("bench", "config")]
    bench = [help_of("-m", "baton.cli", "bench", kind) for kind in ("offline", "online", "plot")]
    services = [help_of("-m", f"baton.{service}") for service in ("router", "prefill", "decode")]
    return "\n".join([*ours, *bench, *services, "--explain --reference --version --help"])


def test_the_readme_shows_enough_to_test() -> None:
    assert any(runs(one) and one.program == "curl" for one in TYPED)
    assert any(snippet.language == "python" for snippet in SHOWN)
    assert all(
        snippet.language in {*SHELL, "", "python", "text", "json", "yaml", "toml"} for snippet in SHOWN
    )
