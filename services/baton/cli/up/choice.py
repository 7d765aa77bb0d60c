"""What `baton up` was asked for, and the processes that follow from it. Decides; starts nothing."""

from __future__ import annotations

import argparse
import errno
import socket
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from baton.core.errors import InvalidSetting


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    model: str
    """Directory or hub id."""
    name: str
    load_format: str = "auto"
    prefill: int = 1
    decode: int = 1
    unified: bool = False
    device: str = "cpu"
    tp: int = 1
    kv_cache_dtype: str = "auto"
    pages: int = 0
    local_below: int = 8
    policy: str = "cost"
    handoffs: str | None = None
    """always or cost; None is always on a CPU."""
    redis_url: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    log_level: str = "info"

    @staticmethod
    def of(args: argparse.Namespace) -> Choice:
        given = dict(vars(args))
        tiny = not given["model"]
        if tiny:
            from baton.tiny import model_path

            given["model"] = str(model_path())
        given["name"] = given["name"] or ("tiny" if tiny else given["model"])
        return Choice(**given)

    def __post_init__(self) -> None:
        for name in ("decode", "tp"):
            if getattr(self, name) < 1:
                raise InvalidSetting(name, f"must be 1 or more, not {getattr(self, name)}")
        if self.prefill < 0 or (self.prefill == 0 and not self.unified):
            raise InvalidSetting("prefill", "must be 1 or more; pods that need none are --unified")
        if not 1 <= self.port <= 65535:
            raise InvalidSetting("port", f"must be between 1 and 65535, not {self.port}")

    @property
    def at(self) -> str:
        """Where the router answers on this machine, for a URL."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"[{host}]" if ":" in host else host

    @property
    def always_hands_over(self) -> bool:
        return (
            not self.unified and (self.handoffs or ("always" if self.device == "cpu" else "cost")) == "always"
        )

    @property
    def pods(self) -> int:
        return self.decode if self.unified else self.prefill + self.decode


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """One process to be."""

    name: str
    module: str
    words: tuple[str, ...]
    port: int
    """Where it answers /readyz."""
    host: str = "127.0.0.1"
    gpus: tuple[str, ...] | None = None
    """As CUDA_VISIBLE_DEVICES names them; None leaves it alone."""


def plan(choice: Choice, redis_url: str, gpus: Sequence[str], ports: Iterator[int]) -> list[Planned]:
    """Pods first, in the order in which they are numbered; the router last."""
    shares = _shares(choice, gpus)
    found: list[Planned] = []
    for number in range(0 if choice.unified else choice.prefill):
        leg, probe = next(ports), next(ports)
        words = ("--listen", f"tcp://127.0.0.1:{leg}", *_pod(f"prefill-{number}", probe, choice, redis_url))
        found.append(
            Planned(
                name=f"prefill-{number}", module="baton.prefill", words=words, port=probe, gpus=next(shares)
            )
        )
    role = "unified" if choice.unified else "decode"
    for number in range(choice.decode):
        probe = next(ports)
        words = ("--role", role, "--names", choice.name, *_pod(f"{role}-{number}", probe, choice, redis_url))
        if not choice.unified:
            words += ("--handoff.local_below", str(choice.local_below))
        found.append(
            Planned(
                name=f"{role}-{number}", module="baton.decode", words=words, port=probe, gpus=next(shares)
            )
        )
    found.append(
        Planned(
            name="router",
            module="baton.router",
            words=_router(choice, redis_url),
            port=choice.port,
            host=choice.at,
        )
    )
    return found


def _pod(name: str, port: int, choice: Choice, redis_url: str) -> tuple[str, ...]:
    words = [
        "--http.host", "127.0.0.1", "--http.port", str(port), "--pod.id", name, "--state.url", redis_url,
        "--engine.model", choice.model, "--engine.device", choice.device,
        "--engine.tensor_parallel", str(choice.tp), *_logs(choice),
    ]  # fmt: skip
    if choice.load_format != "auto":
        words += ["--engine.load_format", choice.load_format]
    if choice.kv_cache_dtype != "auto":
        words += ["--engine.kv_cache_dtype", choice.kv_cache_dtype]
    if choice.pages:
        words += ["--engine.pages", str(choice.pages)]
    return tuple(words)


def _router(choice: Choice, redis_url: str) -> tuple[str, ...]:
    return (
        "--http.host", choice.host, "--http.port", str(choice.port), "--state.url", redis_url,
        "--model.tokenizer", choice.model, "--model.names", choice.name,
        "--placement.policy", choice.policy, "--placement.local", str(not choice.always_hands_over).lower(),
        *_logs(choice),
    )  # fmt: skip


def _logs(choice: Choice) -> tuple[str, ...]:
    return ("--logs.format", "text", "--logs.level", choice.log_level)


def _shares(choice: Choice, gpus: Sequence[str]) -> Iterator[tuple[str, ...] | None]:
    """Each pod's GPUs, in turn."""
    if choice.device == "cpu":
        while True:
            yield None
    needed = choice.pods * choice.tp
    if needed > len(gpus):
        said = f"{choice.pods} pods of {choice.tp} need {needed} GPUs and {len(gpus)} are here"
        raise InvalidSetting("device", f"{said}; --unified with --decode 1 needs {choice.tp}")
    for number in range(choice.pods):
        yield tuple(gpus[number * choice.tp : (number + 1) * choice.tp])


def free_ports() -> Generator[int, None, None]:
    """Ports that nobody listens on, each another: those given out stay taken until this is closed."""
    with ExitStack() as stack:
        while True:
            probe = stack.enter_context(socket.socket())
            probe.bind(("127.0.0.1", 0))
            yield probe.getsockname()[1]


def refuse_taken(host: str, port: int) -> None:
    try:
        ((family, kind, _, _, address), *_) = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise InvalidSetting("host", f"{host} is no address here ({error.strerror})") from error
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidSetting("host", f"{host} is no address of this machine") from error
            if error.errno == errno.EACCES:
                raise InvalidSetting("port", f"{port} is for others ({error.strerror})") from error
            why = f"{port} is taken ({error.strerror}); end what listens there, or choose another with --port"
            raise InvalidSetting("port", why) from error
