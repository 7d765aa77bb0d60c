"""`baton up`: a whole Baton on this machine, for trying it out. Ctrl-C ends all of it.

    baton up                                    the bundled tiny model on the CPU
    baton up --model DIR --prefill 2 --device cuda
    baton up --unified                          one pod that does both

Starts prefill pods and a decode pod as processes of their own, as a cluster would, with a real NIXL
hand-over between them; the decode pod serves OpenAI's API. There is no router yet: with one decode
pod, it is the front door.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

import httpx

from baton.core.errors import DeadlineExceeded, InvalidSetting, WorkerDied

START_S = 300.0
"""How long pods may take to become ready."""
STOP_S = 45.0
"""How long they may take to end when asked to."""
COLOURS = (36, 35, 33, 32, 34)


def main(arguments: Sequence[str]) -> int:
    args = _parser().parse_args(arguments)
    _free(args.host, args.port)
    pods = Pods(args)
    try:
        pods.start()
        print(f"\nBaton answers on http://localhost:{args.port}\n{_try_it(args.port, pods.name)}", flush=True)
        pods.wait()
    except KeyboardInterrupt:
        print("\nstopping", flush=True)
    finally:
        pods.stop()
    return 0


class Pods:
    """The processes, and one log of what they say."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.name = args.name or _name(args.model)
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        args = self.args
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        engine = _engine(args)
        legs, probes = [], {"decode": args.port}
        for number in range(0 if args.unified else args.prefill):
            leg, probe = _any_port(), _any_port()
            words = [
                "--listen",
                f"tcp://127.0.0.1:{leg}",
                "--http.host",
                "127.0.0.1",
                "--http.port",
                str(probe),
            ]
            self._launch(f"prefill-{number}", "baton.prefill", [*words, *engine], number)
            legs.append(f"tcp://127.0.0.1:{leg}")
            probes[f"prefill-{number}"] = probe
        words = ["--role", "unified" if args.unified else "decode", "--http.host", args.host]
        words += ["--http.port", str(args.port), "--names", self.name]
        words += (
            ["--handoff.prefill", ",".join(legs), "--handoff.local_below", str(args.local_below)]
            if legs
            else []
        )
        self._launch("decode", "baton.decode", [*words, *engine], len(legs))
        self._await_ready(probes)

    def _launch(self, name: str, module: str, words: Sequence[str], number: int) -> None:
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if self.args.device == "cuda":
            ranks = range(number * self.args.tp, (number + 1) * self.args.tp)
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, ranks))
        command = [sys.executable, "-m", module, "--logs.format", "text", *words]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        self.running[name] = process
        assert process.stdout is not None
        echo = threading.Thread(
            target=_echo, args=(name, COLOURS[number % len(COLOURS)], process.stdout), daemon=True
        )
        echo.start()

    def _await_ready(self, probes: dict[str, int]) -> None:
        deadline = time.monotonic() + START_S
        waiting = dict(probes)
        while waiting:
            self._check()
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"{', '.join(waiting)} did not become ready within {START_S:.0f} s")
            for name, port in list(waiting.items()):
                if _ready(port):
                    del waiting[name]
            time.sleep(0.1)

    def _check(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                raise WorkerDied(f"{name} ended with status {process.returncode}; its log says why")

    def wait(self) -> None:
        """Until one of them ends."""
        while True:
            self._check()
            time.sleep(0.5)

    def stop(self) -> None:
        """Ask all to end, the decode pod first; end by force what does not. Leaves no process."""
        for process in reversed(list(self.running.values())):
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + STOP_S
        for process in self.running.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _echo(name: str, colour: int, lines: IO[bytes]) -> None:
    paint = sys.stdout.isatty()
    for line in lines:
        label = f"\033[{colour}m{name:<10}\033[0m" if paint else f"{name:<10}"
        print(label, line.decode(errors="replace").rstrip(), flush=True)


def _engine(args: argparse.Namespace) -> list[str]:
    words = [
        "--engine.model",
        args.model,
        "--engine.device",
        args.device,
        "--engine.tensor_parallel",
        str(args.tp),
    ]
    if args.load_format != "auto":
        words += ["--engine.load_format", args.load_format]
    return words


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _free(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InvalidSetting("port", f"{port} is taken ({error}); choose another with --port") from error


def _name(model: str) -> str:
    return "tiny" if model == _tiny() else model


def _tiny() -> str:
    from baton.tiny import model_path

    return str(model_path())


def _try_it(port: int, name: str) -> str:
    asked = {
        "model": name,
        "messages": [{"role": "user", "content": "What is a prefill pod?"}],
        "temperature": 0,
    }
    return (
        f"  curl http://localhost:{port}/v1/chat/completions -H 'content-type: application/json' \\\n"
        f"    -d '{json.dumps(asked)}'\nCtrl-C ends it."
    )


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("baton up", description=__doc__, formatter_class=plain)
    add = parser.add_argument
    add("--model", default=_tiny(), help="directory or hub id; default: the tiny model that ships with Baton")
    add("--name", default="", help="what clients call it; default: tiny, or the model's directory or id")
    add("--load-format", default="auto", help="dummy draws random weights")
    add("--prefill", type=int, default=1, help="prefill pods; default 1")
    add("--unified", action="store_true", help="one pod that prefills and decodes")
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default cpu")
    add("--tp", type=int, default=1, help="ranks (GPUs) of each pod; default 1")
    add(
        "--local-below",
        type=int,
        default=8,
        help="prompts with fewer new tokens stay on the decode pod; default 8",
    )
    add("--host", default="127.0.0.1", help="where the decode pod listens; default 127.0.0.1")
    add("--port", type=int, default=8000, help="default 8000")
    return parser
