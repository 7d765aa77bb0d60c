"""`baton bench online`: latencies of any OpenAI server under an open load.

    baton bench online --url http://localhost:8000 --rate 8 --input-len 2048 --output-len 256
    baton bench online --url http://peer:8000 --json peer.json --plot peer.html

Requests arrive by a Poisson process, whatever the server does with those before. TTFT: first streamed
token since the request was due; ITL: gaps between streamed events; TPOT: (end - first) / (tokens - 1);
goodput: requests a second that met both bounds. Prompts are random token ids, so no tokenizer is needed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np

from baton.cli.bench.plot import page
from baton.cli.bench.work import Range, Work
from baton.cli.typed import address, output
from baton.core.errors import Failed, InvalidSetting, PeerLost

DEADLINE_S = 300.0
"""No request is waited for longer."""


@dataclass(slots=True)
class Seen:
    """One request, in seconds since the run began."""

    due: float
    first: float = 0.0
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str = ""

    @property
    def ttft(self) -> float:
        return self.first - self.due

    @property
    def tpot(self) -> float:
        return (self.last - self.first) / max(1, self.tokens - 1)


def main(arguments: Sequence[str]) -> int:
    args = _parser().parse_args(arguments)
    args.url = address(args.url)
    for name in ("rate", "num_prompts", "vocab"):
        if not getattr(args, name) > 0:
            raise InvalidSetting(name.replace("_", "-"), f"must be above 0, not {getattr(args, name)}")
    files = {name: output(file, name) for name in ("json", "plot") if (file := getattr(args, name))}
    inputs, outputs = Range.parse(args.input_len, "input-len"), Range.parse(args.output_len, "output-len")
    work = Work.make(args.num_prompts, inputs, outputs, args.vocab, args.seed)
    seen = asyncio.run(_run(args, work))
    report = _report(args, seen)
    print(_table(report))
    if "json" in files:
        files["json"].write_text(json.dumps(report, indent=2) + "\n")
    if "plot" in files:
        files["plot"].write_text(page({args.url: report}), encoding="utf-8")
    if report["failed"]:
        raise Failed(f"{report['failed']} requests failed: {next(s.error for s in seen if s.error)}")
    return 0


async def _run(args: argparse.Namespace, work: Work) -> list[Seen]:
    chance = random.Random(args.seed + 1)
    due, at = [], 0.0
    for _ in work.prompts:
        due.append(at)
        at += chance.expovariate(args.rate)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=args.url, timeout=DEADLINE_S, limits=limits) as client:
        model = args.model or await _first_model(client)
        await _ask(client, model, work.prompts[0][:32], 4, args, Seen(0.0), time.perf_counter())
        began = time.perf_counter() + 0.1
        seen = [Seen(one) for one in due]
        asked = [
            _ask(client, model, prompt, count, args, one, began)
            for prompt, count, one in zip(work.prompts, work.outputs, seen, strict=True)
        ]
        await asyncio.gather(*asked)
    return seen


async def _first_model(client: httpx.AsyncClient) -> str:
    try:
        answer = await client.get("/v1/models")
        return str(answer.json()["data"][0]["id"])
    except httpx.HTTPError as error:
        why = str(error) or type(error).__name__
        raise PeerLost(f"no server answers on {client.base_url} ({why}); is it running?") from error
    except (ValueError, LookupError, TypeError) as error:
        raise Failed(f"{client.base_url} lists no model; name one with --model") from error


async def _ask(
    client: httpx.AsyncClient, model: str, prompt: Sequence[int], count: int, args: argparse.Namespace,
    seen: Seen, began: float,
) -> None:  # fmt: skip
    await asyncio.sleep(max(0.0, began + seen.due - time.perf_counter()))
    body = {
        "model": model, "prompt": list(prompt), "max_tokens": count, "stream": True, "ignore_eos": True,
        "temperature": args.temperature, "seed": 1,
    }  # fmt: skip
    try:
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            if answer.status_code != 200:
                seen.error = f"HTTP {answer.status_code}: {(await answer.aread())[:200]!r}"
                return
            async for chunk in answer.aiter_raw():
                _count(chunk, seen, time.perf_counter() - began)
    except httpx.HTTPError as error:
        seen.error = f"{type(error).__name__}: {error}"
    if not seen.error and seen.tokens == 0:
        seen.error = "the stream ended without a token"


IDS = re.compile(rb"^id: (?:\S*/)?\d+\.\d+(?:\+\d+)?:([\d,]*)", re.MULTILINE)
"""Where a Baton server names an event's tokens; other servers send one token an event."""


def _count(chunk: bytes, seen: Seen, now: float) -> None:
    named = IDS.findall(chunk)
    tokens = sum(ids.count(b",") + 1 for ids in named if ids) if named else chunk.count(b"data: {")
    if b'"error"' in chunk:
        seen.error = chunk[:200].decode(errors="replace")
    if not tokens:
        return
    if seen.tokens == 0:
        seen.first = now
    else:
        seen.gaps.append(now - seen.last)
    seen.tokens += tokens
    seen.last = now


def _report(args: argparse.Namespace, seen: list[Seen]) -> dict[str, Any]:
    done = [one for one in seen if not one.error]
    good = [one for one in done if one.ttft <= args.ttft_bound and one.tpot <= args.tpot_bound]
    span = max((one.last for one in done), default=0.0) or 1.0
    return {
        "arguments": {key: value for key, value in vars(args).items() if key not in ("json", "plot")},
        "completed": len(done),
        "failed": len(seen) - len(done),
        "seconds": span,
        "output_tokens_per_second": sum(one.tokens for one in done) / span,
        "good_share": len(good) / max(1, len(seen)),
        "goodput_per_second": len(good) / span,
        "ttft_ms": _spread([one.ttft for one in done]),
        "tpot_ms": _spread([one.tpot for one in done]),
        "itl_ms": _spread([gap for one in done for gap in one.gaps]),
        "e2e_ms": _spread([one.last - one.due for one in done]),
        "requests": [
            {"due": one.due, "ttft": one.ttft, "tpot": one.tpot, "tokens": one.tokens, "error": one.error}
            for one in seen
        ],
    }


def _spread(seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    values = np.asarray(seconds) * 1000
    points = {f"p{q}": float(np.percentile(values, q)) for q in (50, 90, 99)}
    return {"mean": float(values.mean()), **points, "max": float(values.max())}


def _table(report: dict[str, Any]) -> str:
    lines = [
        f"{report['completed']} completed, {report['failed']} failed in {report['seconds']:.1f} s; "
        f"{report['output_tokens_per_second']:,.0f} output tokens/s; {report['good_share']:.0%} in bounds",
        f"{'ms':<8}{'mean':>10}{'p50':>10}{'p90':>10}{'p99':>10}{'max':>10}",
    ]
    for name in ("ttft", "tpot", "itl", "e2e"):
        spread = report[f"{name}_ms"]
        lines.append(f"{name:<8}" + "".join(f"{value:>10.2f}" for value in spread.values()))
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("baton bench online", description=__doc__, formatter_class=plain)
    add = parser.add_argument
    add("--url", default="http://localhost:8000", help="of any OpenAI server; default http://localhost:8000")
    add("--model", default="", help="default: the first that the server lists")
    add("--rate", type=float, default=4.0, help="requests a second; default 4")
    add("--num-prompts", type=int, default=100, help="default 100")
    add("--input-len", default="512", help="prompt tokens, N or LOW:HIGH; default 512")
    add("--output-len", default="64", help="output tokens, N or LOW:HIGH; default 64")
    add("--vocab", type=int, default=1000, help="token ids are below this; default 1000")
    add("--temperature", type=float, default=0.0, help="default 0, greedy")
    add("--seed", type=int, default=0, help="of prompts and arrivals; default 0")
    add("--ttft-bound", type=float, default=0.5, help="seconds, for goodput; default 0.5")
    add("--tpot-bound", type=float, default=0.02, help="seconds, for goodput; default 0.02")
    add("--json", metavar="FILE", help="write settings and figures here")
    add("--plot", metavar="FILE", help="draw them here, as a page; `baton bench plot` draws several runs")
    return parser
