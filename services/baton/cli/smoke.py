"""`baton smoke`: whether a fleet really serves, hands over, and says what a pod says that does it all alone.

    baton smoke --router http://localhost:8000 --decode http://baton-decode:8000 --tokenizer DIR

What `helm test` runs, in a router's image. One completion goes through the router, which may place it as it
likes. Then every decode pod is asked for the same twice: with the prompt computed by a prefill pod, whose
hand-over its figures must show, and by itself. All must say the same; no cache holds the prompt, and it is
longer than what pods compute themselves. Weights of 16 bits leave open which of two tokens comes that are as
likely: there `--rounded` ends the comparison. Last, what the pods measured of the paths between them.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from baton.cli.doctor.cluster import RATE, VERDICT
from baton.cli.fleet.figures import Figures
from baton.cli.typed import address
from baton.core.errors import BatonError, DeadlineExceeded, WorkerDied
from baton.openai import ServedModel, read_completion
from baton.protocol import placed
from baton.tokens.tokenizer import Tokenizer

PROMPT = (
    "A relay team runs with one baton. The first runner carries it as fast as the road allows, and the "
    "second takes it over without either of them slowing down. Ticket {ticket}. "
    "What does the second runner hold?"
)
OUTPUT = 24
CONNECTS = 4
"""Times that a connection is tried again, within some four seconds."""
TIE = 0.25
"""Between log-probabilities of tokens that rounding may turn round: two steps of bf16 between 16 and 32."""
NVLINK, RDMA = "nvlink", "rdma"
"""What may be promised of paths."""
WITHOUT_RDMA = ("tcp", "less than rdma")
"""What stands in a transport's name where RDMA is not used, or not as it should be."""
FAST = ("nvlink", "same gpu", "rdma", "cuda_ipc", "rc_", "dc_")
"""How the transports begin that are promised with NVLink or RDMA: in our words, and in UCX's."""


class Failed(BatonError):
    """What was promised is not so."""


@dataclass(frozen=True, slots=True)
class Said:
    """An answer, token by token."""

    text: str
    tokens: tuple[str, ...]
    likeliest: tuple[dict[str, float], ...]
    """At each token, those that were likeliest, with their log-probabilities."""

    @classmethod
    def of(cls, reply: httpx.Response) -> Said:
        choice = reply.json()["choices"][0]
        scores = choice["logprobs"]
        return cls(choice["text"], tuple(scores["tokens"]), tuple(scores["top_logprobs"]))


@dataclass(frozen=True, slots=True)
class Asker:
    """One run's connections and what it asks about."""

    http: httpx.Client
    router: str
    decode: str
    deadline: float
    metrics_port: int = 9000

    def answer(self, prompt: str, model: str, salt: str) -> Said:
        """What the router's fleet says."""
        body = asking(prompt, salt) | {"model": model}
        reply = self.http.post(f"{self.router}/v1/completions", json=body)
        if reply.status_code != 200:
            raise Failed(f"the router answered {reply.status_code}: {reply.text[:500]}")
        return Said.of(reply)

    def by(self, pod: str, prompt: str, tokenizer: str, *, alone: bool) -> Said:
        """What one decode pod says that asks a prefill pod, or nobody."""
        lease = self.http.get(f"{pod}/lease").raise_for_status().json()
        model = ServedModel.load(
            tokenizer,
            names=(lease["model"],),
            max_length=lease["max_model_len"],
            vocabulary=lease["vocabulary"],
        )
        salt = secrets.token_hex(8)
        asked = read_completion(json.dumps(asking(prompt, salt)).encode(), model, id=salt, created=0).seeded()
        message = placed.Placed(
            id=salt,
            shape=asked.shape,
            requests=asked.requests(lease["page_size"], lease["model_fingerprint"]),
            texts=(prompt,),
            prefill=() if alone else None,
        )
        headers = {"content-type": placed.CONTENT_TYPE, "x-request-id": salt}
        reply = self.http.post(f"{pod}{placed.PATH}", content=placed.encode(message), headers=headers)
        if reply.status_code != 200:
            raise Failed(f"{pod} answered {reply.status_code}: {reply.text[:500]}")
        return Said.of(reply)

    def pods(self) -> list[str]:
        """Every decode pod behind the Service's name."""
        at = urlsplit(self.decode)
        assert at.hostname is not None
        found = socket.getaddrinfo(at.hostname, at.port or 80, type=socket.SOCK_STREAM)
        pods = (str(one[4][0]) for one in found)
        return sorted(str(httpx.URL(scheme="http", host=pod, port=at.port)) for pod in pods)

    def figures(self, pod: str) -> Figures:
        at = httpx.URL(pod).copy_with(port=self.metrics_port, path="/metrics")
        return Figures.read(self.http.get(at).raise_for_status().text)

    def await_ready(self) -> list[str]:
        """Until the router takes requests and a decode pod has an address."""
        while True:
            try:
                if self.http.get(f"{self.router}/v1/models").status_code == 200 and (pods := self.pods()):
                    return pods
            except (httpx.HTTPError, OSError):
                pass
            if time.monotonic() > self.deadline:
                raise DeadlineExceeded(f"{self.router} does not serve yet")
            time.sleep(0.5)


def main(arguments: Sequence[str]) -> int:
    args = parser().parse_args(arguments)
    headers = {}
    if file := os.environ.get("BATON_KEY_FILE"):
        headers["authorization"] = f"Bearer {_first_key(file)}"
    # A network policy may let a pod in only a moment after it began.
    patient = httpx.HTTPTransport(retries=CONNECTS)
    with httpx.Client(timeout=args.seconds, headers=headers, transport=patient) as http:
        deadline = time.monotonic() + args.seconds
        router, decode = address(args.router, "router"), address(args.decode, "decode")
        asker = Asker(http, router, decode, deadline, args.metrics_port)
        try:
            check(asker, args)
        except httpx.HTTPError as error:
            raise WorkerDied(f"no answer: {error!r}") from error
    return 0


def check(asker: Asker, args: argparse.Namespace) -> None:
    pods = asker.await_ready()
    below = max(int(asker.figures(pod).total("baton_local_below_tokens")) for pod in pods)
    prompt = prompt_beyond(below if args.handover else 0, Tokenizer.load(args.tokenizer))
    model = args.model or asker.http.get(f"{asker.router}/v1/models").json()["data"][0]["id"]
    expected = asker.answer(prompt, model, secrets.token_hex(8))
    _say(f"completion through {asker.router}: {expected.text!r}")
    for pod in pods:
        if args.handover:
            before = _handed(asker.figures(pod))
            said = asker.by(pod, prompt, args.tokenizer, alone=False)
            same = require_same(expected, said, f"{pod} with a prefill pod", args.rounded)
            if _handed(asker.figures(pod)) <= before:
                raise Failed(f"{pod} had no prompt handed over: are prefill pods ready?")
            _say(f"{pod} says {same}, handed over from a prefill pod")
        said = asker.by(pod, prompt, args.tokenizer, alone=True)
        _say(f"{pod} says {require_same(expected, said, f'{pod} by itself', args.rounded)} by itself")
    for pod in pods if args.handover else ():
        _judge(pod, asker.figures(pod), args.fast_path)


def prompt_beyond(below: int, tokenizer: Tokenizer) -> str:
    """What nobody has asked before, and twice as long as what pods compute themselves: that moves."""
    text = opening = PROMPT.format(ticket=secrets.token_hex(8))
    while len(tokenizer.encode(text)) <= 2 * below:
        text += f" {opening}"
    return text


def _judge(pod: str, figures: Figures, promised: str) -> None:
    for labels, rate in figures.each(RATE):
        if labels["direction"] == "write":
            _say(f"path {pod} → {labels['peer']}: {rate / 1e9:.1f} GB/s over {labels['transport']}")
    if slow := _slow(figures):
        _say(f"SLOWER than the hardware allows, see `baton doctor` in that pod: {', '.join(sorted(slow))}")
    if promised:
        require_fast(figures, promised)


def require_fast(figures: Figures, promised: str = NVLINK) -> None:
    """Raises where pages travel, or would, by anything but NVLink or RDMA. With RDMA alone, pods of one node
    may have less than NVLink between them, and nobody TCP."""
    slow, paths = _slow(figures), [labels for labels, _ in figures.each(RATE)]
    if promised == RDMA:
        broken = [one for one in paths if any(word in one["transport"] for word in WITHOUT_RDMA)]
    else:
        broken = [one for one in paths if one["peer"] in slow or not _fast(one)]
    if broken or not paths:
        wrong = sorted({f"{one['peer']} over {one['transport']}" for one in broken})
        told = ", ".join(wrong) or "no pair of pods has measured its path"
        kind = "RDMA" if promised == RDMA else "NVLink or RDMA"
        raise Failed(f"{kind} was promised: {told}; `baton doctor` in a decode pod says why")


def _slow(figures: Figures) -> set[str]:
    """Peers to which the path gives less than the two pods' hardware allows."""
    return {labels["peer"] for labels, ok in figures.each(VERDICT) if not ok}


def _fast(labels: dict[str, str]) -> bool:
    return all(one.startswith(FAST) for one in labels["transport"].split(", "))


def require_same(expected: Said, said: Said, who: str, rounded: bool) -> str:
    """How far it is the same, in words; raises where it is not."""
    if said.text == expected.text:
        return "the same"
    pairs = enumerate(zip(expected.tokens, said.tokens, strict=False))
    at, (one, other) = next((found for found in pairs if found[1][0] != found[1][1]), (0, ("", "")))
    if rounded and any(_tied(one, other, answer.likeliest[at]) for answer in (expected, said) if one):
        return f"the same up to token {at + 1}, where {one!r} and {other!r} are as likely but for rounding,"
    raise Failed(f"{who} says {said.text!r}")


def _tied(one: str, other: str, likeliest: dict[str, float]) -> bool:
    return {one, other} <= likeliest.keys() and abs(likeliest[one] - likeliest[other]) <= TIE


def asking(prompt: str, salt: str) -> dict[str, Any]:
    return {
        "prompt": prompt, "max_tokens": OUTPUT, "temperature": 0, "ignore_eos": True, "cache_salt": salt,
        "logprobs": 2,
    }  # fmt: skip


def _handed(figures: Figures) -> float:
    return figures.total("baton_handoff_seconds_count")


def _first_key(file: str) -> str:
    with open(file, encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and not line.startswith("#"):
                return line.strip().split(":")[1]
    raise Failed(f"{file} holds no key")


def _say(what: str) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("baton smoke", description=__doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--router", required=True, help="where clients ask: http://host:port")
    add("--decode", required=True, help="a name behind which all decode pods are: http://host:port")
    add("--tokenizer", required=True, help="directory or hub id of the model's tokenizer")
    add("--model", default="", help="the model's name; default: the first that is served")
    add("--seconds", type=float, default=120.0, help="how long all of it may take; default 120")
    add("--no-handover", dest="handover", action="store_false", help="there are no prefill pods")
    add("--rounded", action="store_true", help="weights of 16 bits: let rounding decide between equals")
    add(
        "--fast-path", nargs="?", const=NVLINK, default="", choices=[NVLINK, RDMA],
        help="fail where a path is not NVLink or RDMA; rdma: where one is TCP, or RDMA and slow",
    )  # fmt: skip
    add("--metrics-port", type=int, default=9000, help="of decode pods; default 9000")
    return parser
