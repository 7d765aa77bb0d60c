"""`baton up`: what it plans, that all of it works together, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import pytest
from tests.running import Running

from baton.cli.__main__ import main
from baton.cli.up import parser
from baton.cli.up.choice import Choice, Planned, plan
from baton.cli.up.process import Process
from baton.cli.up.run import _welcome
from baton.cli.up.screen import Screen
from baton.core.errors import InvalidSetting
from baton.state.embedded import free_port


def chosen(*words: str) -> Choice:
    return Choice.of(parser().parse_args(words))


def planned(*words: str, gpus: tuple[str, ...] = ()) -> list[Planned]:
    return plan(chosen(*words), "redis://r", gpus, itertools.count(9000))


def flag(one: Planned, name: str) -> str:
    return one.words[one.words.index(name) + 1]


# ---- planning ----


def test_every_pod_is_a_process_of_its_own_and_the_router_comes_last() -> None:
    found = planned("--prefill", "2", "--decode", "3")
    assert [one.name for one in found] == [
        *("prefill-0", "prefill-1", "decode-0", "decode-1", "decode-2"),
        "router",
    ]
    assert {flag(one, "--state.url") for one in found} == {"redis://r"}
    ports = [flag(one, "--http.port") for one in found] + [flag(one, "--listen")[-4:] for one in found[:2]]
    assert len(set(ports)) == len(ports)
    assert flag(found[2], "--names") == flag(found[-1], "--model.names") == "tiny"
    assert all(one.gpus is None for one in found)


def test_every_pod_is_told_what_keys_and_values_are_kept_in() -> None:
    assert {flag(one, "--engine.kv_cache_dtype") for one in planned("--kv-cache-dtype", "fp8")[:2]} == {"fp8"}
    assert "--engine.kv_cache_dtype" not in planned()[0].words


def test_unified_pods_need_no_prefill_pods() -> None:
    found = planned("--unified", "--decode", "2")
    assert [one.name for one in found] == ["unified-0", "unified-1", "router"]
    assert flag(found[0], "--role") == "unified" and flag(found[-1], "--placement.local") == "true"


@pytest.mark.parametrize(
    ("words", "local"),
    [((), "false"), (("--handoffs", "cost"), "true"), (("--device", "cuda"), "true")],
)
def test_hand_overs_are_for_showing_on_a_cpu_and_for_speed_on_gpus(
    words: tuple[str, ...], local: str
) -> None:
    assert flag(planned(*words, gpus=("0", "1"))[-1], "--placement.local") == local


def test_each_pod_has_gpus_of_its_own() -> None:
    found = planned("--device", "cuda", "--tp", "2", "--decode", "2", gpus=("4", "5", "6", "7", "8", "9"))
    assert [one.gpus for one in found] == [("4", "5"), ("6", "7"), ("8", "9"), None]
    with pytest.raises(InvalidSetting, match=r"2 pods of 2 need 4 GPUs and 3 are here"):
        planned("--device", "cuda", "--tp", "2", gpus=("0", "1", "2"))


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--decode", "0"], "decode: must be 1 or more"),
        (["--prefill", "0"], "pods that need none are --unified"),
        (["--tp", "0"], "tp: must be 1 or more"),
        (["--port", "0"], "port: must be between 1 and 65535"),
        (["--port", "65536"], "port: must be between 1 and 65535"),
        (["--host", "no-such-host.invalid"], "host: no-such-host.invalid is no address"),
        (["--host", "192.0.2.1"], "host: 192.0.2.1 is no address of this machine"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", *words]) == 2
    assert why in capsys.readouterr().err


def test_a_taken_port_is_said_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        began = time.monotonic()
        assert main(["up", "--port", str(port)]) == 2
        assert time.monotonic() - began < 5
    error = capsys.readouterr().err
    assert f"port: {port} is taken" in error and "--port" in error


def test_the_status_stays_below_the_log() -> None:
    out = io.StringIO()
    screen = Screen(out, paint=True)
    screen.expect(["decode-0", "router"])
    screen.status("decode-0: weights, 40% done")
    screen.line("router", "listening")
    text = out.getvalue()
    assert text.index("listening") < text.rindex("weights, 40% done")
    assert "\r\033[K" in text and "\033[90mrouter  \033[0m listening\n" in text
    plain = io.StringIO()
    screen = Screen(plain, paint=False)
    screen.status("decode-0: weights")
    screen.line("router", "listening")
    assert plain.getvalue() == "router   listening\n"


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")


def test_a_router_is_asked_where_it_listens() -> None:
    """Not on the loopback's usual address, where nobody would ever answer."""
    with HTTPServer(("127.0.0.2", 0), _Ready) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        router = planned("--host", "127.0.0.2", "--port", str(server.server_port))[-1]

        async def asked() -> str:
            async with httpx.AsyncClient() as http:
                return await Process(router, print).progress(http)

        assert asyncio.run(asked()) == ""
        server.shutdown()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://localhost:8000/"),
        ("0.0.0.0", "http://localhost:8000/"),
        ("192.0.2.1", "http://192.0.2.1:8000/"),
        ("::1", "http://[::1]:8000/"),
        ("::", "http://[::1]:8000/"),
    ],
)
def test_what_it_prints_to_try_names_where_the_router_listens(host: str, url: str) -> None:
    assert url in _welcome(chosen("--host", host), 2, 1.0)


# ---- running ----


def test_what_it_prints_to_try_works_as_printed(running: Running) -> None:
    command = re.search(r"^  (curl .*?\\\n.*?)$", running.log, re.MULTILINE)
    assert command is not None
    done = subprocess.run(["bash", "-c", command[1]], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert "prefill pod" in told["choices"][0]["message"]["content"]


def test_the_other_commands_see_it(running: Running, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--url", running.url, "--temperature", "0", "What is a decode pod?"]) == 0
    assert "prefill-0 → decode-" in capsys.readouterr().out
    running.until(lambda: main(["status", "--url", running.url]) == 0)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("prefill-0", "decode-0", "decode-1", "router http://"))
    assert re.search(r"hand-overs [1-9]", shown)
    assert main(["top", "--url", running.url, "--every", "0.1", "--count", "1"]) == 0
    assert "decode-1" in capsys.readouterr().out
    assert main(["doctor", "--no-transfer", "--url", running.url]) == 0
    assert re.search(r"ok    path decode-\d ↔ prefill-0/0: [\d.]+ GB/s", capsys.readouterr().out)


def test_its_redis_is_started_again(running: Running) -> None:
    """Without one, a pod that is started again would never be found."""

    def redis() -> list[int]:
        return [pid for pid, words in running.family().items() if "redis-server" in words]

    (before,) = redis()
    os.kill(before, signal.SIGKILL)
    running.until(lambda: "Redis has died; it is started again" in running.log)
    running.until(lambda: len(now := redis()) == 1 and now != [before])
    running.until(lambda: main(["status", "--url", running.url]) == 0)


def test_bench_measures_it_and_draws(
    running: Running, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    plot = tmp_path_factory.mktemp("bench") / "plot.html"
    words = ["--num-prompts", "4", "--rate", "20", "--input-len", "40", "--output-len", "4"]
    assert main(["bench", "online", "--url", running.url, *words, "--plot", str(plot)]) == 0
    assert "4 completed, 0 failed" in capsys.readouterr().out and "<svg" in plot.read_text()


def test_a_model_that_is_not_there_is_said_with_its_reason() -> None:
    command = [
        sys.executable,
        "-m",
        "baton.cli",
        "up",
        "--unified",
        "--port",
        str(free_port()),
        "--model",
        "./no-such-model",
    ]
    environ = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=90)
    assert done.returncode == 1
    assert "ended with status" in done.stderr and "no-such-model" in done.stderr


def test_killed_outright_it_still_leaves_no_process() -> None:
    with Running("--unified") as one:
        assert httpx.get(f"{one.url}/readyz").status_code == 200
        family = one.family()
        assert sum("baton." in words for words in family.values()) >= 3
        one.process.send_signal(signal.SIGKILL)
        one.process.wait(10)
        deadline = time.monotonic() + 45
        while left := [words for pid, words in family.items() if _alive(pid)]:
            assert time.monotonic() < deadline, left
            time.sleep(0.1)


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
