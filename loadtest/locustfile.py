"""Users of a chat service, for Locust: conversations, shared system prompts, long documents, all streaming.

    locust -f loadtest/locustfile.py --host http://localhost:8000 --users 20 --run-time 5m --headless

Besides Locust's own figures: TTFT and ITL (ms) and TOKENS (tokens of an answer, in the column of times),
and at the end our percentiles as one JSON line, also in BATON_LOAD_REPORT if that names a file. A stream
without its [DONE], or with an error event, is a failure; with BATON_LOAD_COMPARE=1 so is an answer that is
not what came before to the same messages: nothing is drawn, but weights of 16 bits round. BATON_LOAD_RATE
above 0 makes arrivals open: so many requests a second begin, Poisson or as BATON_LOAD_SHAPE says, whatever
is still open; --users is then the most that may be.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import gevent
from locust import HttpUser, between, events, task
from locust.env import Environment
from urllib3 import PoolManager

MODEL = os.environ.get("BATON_LOAD_MODEL", "")
RATE = float(os.environ.get("BATON_LOAD_RATE", "0"))
SHAPE = os.environ.get("BATON_LOAD_SHAPE", "poisson")
"""poisson, steady, burst (ten at once, ten times as seldom), ramp (up to twice the rate in a minute)."""
MIX = os.environ.get("BATON_LOAD_MIX", "chat=5,shared=3,document=1")
OUTPUT = int(os.environ.get("BATON_LOAD_OUTPUT", "64"))
DOCUMENT_WORDS = int(os.environ.get("BATON_LOAD_DOCUMENT_WORDS", "600"))
KEY = os.environ.get("BATON_LOAD_KEY", "")
COMPARE = os.environ.get("BATON_LOAD_COMPARE", "") == "1"
START_S = 240
"""How long the fleet may take to serve."""
REPORT = os.environ.get("BATON_LOAD_REPORT", "")

WORDS = [
    "river",
    "stone",
    "paper",
    "window",
    "garden",
    "signal",
    "winter",
    "copper",
    "letter",
    "market",
    "engine",
    "harbour",
    "violin",
    "shadow",
]
SYSTEMS = [
    f"You are assistant number {number}. " + "Answer briefly, and say what you know. " * 12
    for number in range(4)
]
QUESTIONS = [
    "What is a prefill pod?",
    "What is the KV cache?",
    "Tell me more.",
    "Why is that so?",
    "What is Baton?",
]

Message = dict[str, str]
seen: dict[str, list[float]] = defaultdict(list)
"""Every measured value of this run, by its name."""
answers: dict[str, str] = {}
"""What came first to each list of messages."""


def weights() -> dict[str, int]:
    pairs = (part.partition("=") for part in MIX.split(","))
    return {name: int(weight) for name, _, weight in pairs}


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def chat(draw: random.Random) -> Iterator[list[Message]]:
    """A conversation of a few turns; whoever runs it appends the answers."""
    messages: list[Message] = [{"role": "system", "content": words(draw, 8)}]
    for _ in range(draw.randint(2, 5)):
        messages.append({"role": "user", "content": draw.choice(QUESTIONS)})
        yield messages


def shared(draw: random.Random) -> Iterator[list[Message]]:
    """One of a few long system prompts, and a question."""
    yield [
        {"role": "system", "content": draw.choice(SYSTEMS)},
        {"role": "user", "content": draw.choice(QUESTIONS)},
    ]


def document(draw: random.Random) -> Iterator[list[Message]]:
    """A text that nobody has sent before."""
    yield [{"role": "user", "content": f"{words(draw, DOCUMENT_WORDS)}. What is this about?"}]


KINDS = {"chat": chat, "shared": shared, "document": document}


class Broken(Exception):
    """What came is no answer."""


def compare(messages: list[Message], answer: str) -> None:
    asked = json.dumps(messages)
    if asked in answers:
        seen["COMPARED"].append(1)
    if (before := answers.setdefault(asked, answer)) != answer:
        raise Broken(f"another answer than before: {answer[:200]!r} in place of {before[:200]!r}")


class Client(HttpUser):
    """What every kind of user shares: one streaming request, measured."""

    abstract = True
    pool_manager: ClassVar[PoolManager] = PoolManager(maxsize=2048, block=False)

    def talk(self, kind: str, draw: random.Random) -> None:
        for messages in KINDS[kind](draw):
            answer = self.ask(kind, messages)
            if answer is None:
                return
            messages.append({"role": "assistant", "content": answer})

    def ask(self, kind: str, messages: list[Message]) -> str | None:
        body: dict[str, Any] = {"messages": messages, "max_tokens": OUTPUT, "temperature": 0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        if MODEL:
            body["model"] = MODEL
        headers = {"authorization": f"Bearer {KEY}"} if KEY else {}
        began = time.perf_counter()
        with self.client.post(
            "/v1/chat/completions", json=body, headers=headers, stream=True, catch_response=True, name=kind
        ) as reply:
            try:
                if reply.status_code != 200:
                    raise Broken(f"status {reply.status_code}: {reply.text[:200]}")
                answer = self.read(kind, reply, began)
                if COMPARE:
                    compare(messages, answer)
            except Exception as error:  # whatever it was, this user goes on
                reply.failure(repr(error))
                return None
            reply.success()
            return answer

    def read(self, kind: str, reply: Any, began: float) -> str:
        answer, last, done, tokens = "", began, False, 0
        for line in reply.iter_lines():
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip()
            if data == b"[DONE]":
                done = True
                continue
            event = json.loads(data)
            if "error" in event:
                raise Broken(str(event["error"])[:200])
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
            piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
            if piece:
                now = time.perf_counter()
                self.note("ITL" if answer else "TTFT", kind, (now - last) * 1000)
                answer, last = answer + piece, now
        if not done:
            raise Broken("the stream ended without [DONE]")
        self.note("TOKENS", kind, tokens)
        self.note("E2E", kind, (time.perf_counter() - began) * 1000)
        return answer

    def note(self, what: str, kind: str, value: float) -> None:
        seen[what].append(value)
        if what != "E2E":
            self.environment.events.request.fire(
                request_type=what,
                name=kind,
                response_time=value,
                response_length=0,
                exception=None,
                context={},
            )


if RATE > 0:

    class Arrivals(Client):
        """Begins requests by the clock; stands for everybody."""

        fixed_count = 1

        def on_start(self) -> None:
            self.draw = random.Random()
            self.began = time.monotonic()
            self.open_ones: set[gevent.Greenlet] = set()
            options = self.environment.parsed_options
            self.most = options.num_users if options else 1000

        @task
        def arrive(self) -> None:
            """One arrival, or one burst: between two of them Locust may end the run."""
            gevent.sleep(pause(self.draw, time.monotonic() - self.began))
            kinds, shares = zip(*weights().items(), strict=True)
            for _ in range(10 if SHAPE == "burst" else 1):
                if len(self.open_ones) >= self.most:
                    self.note("OVERRUN", "arrivals", len(self.open_ones))
                    continue
                kind = self.draw.choices(kinds, shares)[0]
                one = gevent.spawn(self.talk, kind, random.Random(self.draw.random()))
                self.open_ones.add(one)
                one.link(self.open_ones.discard)

        def on_stop(self) -> None:
            """With --stop-timeout, what is open may end."""
            gevent.joinall(list(self.open_ones), timeout=self.environment.stop_timeout or 0)

    def pause(draw: random.Random, since: float) -> float:
        """Seconds to the next arrival."""
        if SHAPE == "steady":
            return 1 / RATE
        if SHAPE == "burst":
            return draw.expovariate(RATE / 10)
        if SHAPE == "ramp":
            return draw.expovariate(max(RATE / 10, RATE * min(2.0, since / 30)))
        return draw.expovariate(RATE)

else:

    class Chats(Client):
        weight = weights().get("chat", 0)
        wait_time = between(0.1, 1.0)

        @task
        def converse(self) -> None:
            self.talk("chat", random.Random())

    class Shared(Client):
        weight = weights().get("shared", 0)
        wait_time = between(0.1, 1.0)

        @task
        def question(self) -> None:
            self.talk("shared", random.Random())

    class Documents(Client):
        weight = weights().get("document", 0)
        wait_time = between(0.1, 1.0)

        @task
        def summary(self) -> None:
            self.talk("document", random.Random())


@events.test_start.add_listener
def await_fleet(environment: Environment, **_: object) -> None:
    """A Job may start before what it is to ask."""
    assert environment.host, "--host says whom to ask"
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        try:
            headers = {"authorization": f"Bearer {KEY}"} if KEY else {}
            with urlopen(Request(f"{environment.host}/v1/models", headers=headers), timeout=5) as reply:
                if reply.status == 200:
                    return
        except OSError:
            gevent.sleep(1)
    raise RuntimeError(f"{environment.host} does not serve")


def percentiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    at = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 90, 99)}
    return {"count": len(ordered), **{name: round(value, 3) for name, value in at.items()}}


@events.quitting.add_listener
def tell(environment: Environment, **_: object) -> None:
    total = environment.stats.total
    kinds = [environment.stats.get(kind, "POST") for kind in KINDS]
    compared = seen.pop("COMPARED", [])
    told: dict[str, Any] = {what.lower(): percentiles(values) for what, values in seen.items()}
    if COMPARE:
        told["compared"] = len(compared)
    told["requests"] = sum(one.num_requests for one in kinds)
    told["failures"] = total.num_failures
    told["seconds"] = round(total.last_request_timestamp - total.start_time, 1) if seen else 0
    told["tokens_per_second"] = round(sum(seen["TOKENS"]) / max(told["seconds"], 1), 1)
    line = json.dumps({"baton_load": told})
    print(line, flush=True)
    if REPORT:
        with open(REPORT, "w", encoding="utf-8") as file:
            file.write(line + "\n")
