"""Steady load that knows what every answer must be. Runs in a pod of a router's image; needs httpx alone.

    python3 steady.py --url http://baton-router --model tiny --users 6

Before the load, each prompt's greedy answer is taken from the quiet fleet, twice. Then users ask without
pause, half of them streaming, until /tmp/stop exists. Whatever is no whole and equal answer is a failure or
wrong, with its time and reason on a line of its own; the last line sums up. An answer that differs is told
in full: during a rollout to another model there are two right ones. `--whole` asks for whole answers and not
for equal ones: in sixteen bits the order of a sum decides between words that random weights find as good.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import os
import random
import sys
import time
from typing import Any

import httpx

STOP = "/tmp/stop"
SUBJECTS = ("relay race", "bridge", "kitchen", "railway", "orchestra", "library", "harbour", "bakery")
OUTPUT = 48


def prompts() -> list[str]:
    """Different from their first page on, and long enough to be handed over."""
    return [
        f"Number {place}. Tell me about a {subject} where one hands over to another. " * 6
        for place, subject in enumerate(SUBJECTS)
    ]


class Wrong(Exception):
    pass


class Load:
    def __init__(self, http: httpx.AsyncClient, url: str, model: str, whole: bool) -> None:
        self.http = http
        self.url = url
        self.model = model
        self.whole = whole
        """Whole answers suffice."""
        self.expected: dict[str, str] = {}
        self.counts: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0

    def _body(self, prompt: str, stream: bool) -> dict[str, Any]:
        body = {"model": self.model, "prompt": prompt, "max_tokens": OUTPUT, "temperature": 0}
        return body | {"ignore_eos": True, "stream": stream}

    async def ask(self, prompt: str, stream: bool) -> str:
        if not stream:
            reply = await self.http.post(f"{self.url}/v1/completions", json=self._body(prompt, False))
            if reply.status_code != 200:
                raise Wrong(f"status {reply.status_code}: {reply.text[:300]}")
            told = reply.json()
            text: str = told["choices"][0]["text"]
            if told["usage"]["completion_tokens"] != OUTPUT:
                raise Wrong(f"{told['usage']} instead of {OUTPUT} tokens")
            return text
        return await self._streamed(prompt)

    async def _streamed(self, prompt: str) -> str:
        text, done, finish = "", False, None
        async with self.http.stream(
            "POST", f"{self.url}/v1/completions", json=self._body(prompt, True)
        ) as reply:
            if reply.status_code != 200:
                raise Wrong(f"status {reply.status_code}: {(await reply.aread())[:300]!r}")
            async for line in reply.aiter_lines():
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    done = True
                    continue
                event = json.loads(data)
                if "error" in event:
                    raise Wrong(f"error event: {data[:300]}")
                for choice in event["choices"]:
                    text += choice["text"]
                    finish = choice["finish_reason"] or finish
        if not done or finish != "length":
            raise Wrong(f"the stream ended early: done {done}, finish {finish}, {len(text)} characters")
        return text

    async def user(self, number: int) -> None:
        draw = random.Random(number)
        while not os.path.exists(STOP):
            prompt = draw.choice(list(self.expected))
            began = time.monotonic()
            try:
                text = await self.ask(prompt, stream=bool(number % 2))
            except Exception as error:
                self.counts["failed"] += 1
                say(event="failed", user=number, began=round(time.time() - time.monotonic() + began, 2),
                    seconds=round(time.monotonic() - began, 2), reason=repr(error))  # fmt: skip
                await asyncio.sleep(0.2)
                continue
            self.counts["done"] += 1
            self.slowest = max(self.slowest, time.monotonic() - began)
            if text != self.expected[prompt] and not self.whole:
                self.counts["wrong"] += 1
                say(event="wrong", user=number, prompt=prompt[:40], expected=self.expected[prompt], got=text)


def say(**fields: object) -> None:
    sys.stdout.write(json.dumps({"at": round(time.time(), 2), **fields}) + "\n")
    sys.stdout.flush()


async def run(args: argparse.Namespace) -> None:
    timeout = httpx.Timeout(args.timeout, connect=10)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=timeout, limits=limits) as http:
        load = Load(http, args.url, args.model, args.whole)
        for prompt in prompts():
            first, second = await load.ask(prompt, False), await load.ask(prompt, True)
            if first != second and not args.whole:
                raise SystemExit(f"the quiet fleet says two things: {first!r} and {second!r}")
            load.expected[prompt] = first
        say(event="begun", users=args.users)
        users = asyncio.gather(*(load.user(number) for number in range(args.users)))
        while not users.done():
            await asyncio.wait([users], timeout=5)
            say(event="so far", **load.counts)
        await users
        say(event="end", done=load.counts["done"], failed=load.counts["failed"], wrong=load.counts["wrong"],
            slowest_s=round(load.slowest, 2))  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--users", type=int, default=6)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--timeout", type=float, default=60.0)
    asyncio.run(run(parser.parse_args()))
