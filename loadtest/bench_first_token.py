"""Time to the first token of one prompt at a time: short ones, long ones, and ones cached but for the end.

    python loadtest/bench_first_token.py http://localhost:8000 [--count 9]

Prompts are random token ids, streamed, two tokens asked for; milliseconds as the client sees them.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time

import httpx

AGAIN = (16, 2048, 7000)
"""Tokens of prompts that are asked for again."""
NEW = (200, 300, 512, 1000, 1500, 2000, 3000)
VOCABULARY = range(300, 90_000)


def first_token_ms(client: httpx.Client, model: str, prompt: list[int]) -> float:
    body = {"model": model, "prompt": prompt, "max_tokens": 2, "stream": True, "ignore_eos": True}
    content = json.dumps({**body, "temperature": 0}).encode()
    began, first = time.perf_counter(), 0.0
    with client.stream(
        "POST", "/v1/completions", content=content, headers={"content-type": "application/json"}
    ) as answer:
        answer.raise_for_status()
        for line in answer.iter_lines():
            if line.startswith("data") and not first:
                first = time.perf_counter() - began
    return first * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=9)
    args = parser.parse_args()
    draw = random.Random(time.time_ns())

    def prompt(tokens: int) -> list[int]:
        return [draw.choice(VOCABULARY) for _ in range(tokens)]

    with httpx.Client(base_url=args.url, timeout=60) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        for tokens in (50, 600):  # what a first request of a kind sets up
            first_token_ms(client, model, prompt(tokens))
        for tokens in AGAIN:
            same = prompt(tokens)
            first, *later = (first_token_ms(client, model, same) for _ in range(args.count + 1))
            print(f"{tokens:5d} tokens: first {first:.1f}, again {told(later)}", flush=True)
        for tokens in NEW:
            some = [first_token_ms(client, model, prompt(tokens)) for _ in range(args.count)]
            print(f"{tokens:5d} tokens, new each time: {told(some)}", flush=True)


def told(times: list[float]) -> str:
    return f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f}) ms"


if __name__ == "__main__":
    main()
