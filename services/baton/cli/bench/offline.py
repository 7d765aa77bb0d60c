"""`baton bench offline`: how many tokens a second one engine makes of prompts that are all there at once.

    baton bench offline --model DIR --num-prompts 256 --input-len 100:1024 --output-len 100:1024 --seed 0

`--against transformers` runs the same work through transformers' own generation in turn, in this
process, and prints the ratio. Lengths are exact: end-of-sequence tokens are ignored on both sides.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from baton.cli.bench.against import AGAINST
from baton.cli.bench.work import Range, Work
from baton.core.types import SamplingParams
from baton.engine import LLM

WARM_PROMPT = tuple(range(16))
ENGINE = {
    "device": str, "dtype": str, "load_format": str, "tensor_parallel": int, "page_size": int, "pages": int,
    "max_model_len": int, "cache": str, "memory_fraction": float, "attention": str, "max_running": int,
    "prefill_budget": int, "graph_max_batch": int, "threads": int, "profile": str, "profile_from": int,
}  # fmt: skip
"""The engine's settings that can be given, by their own names."""


@dataclass(frozen=True, slots=True)
class Run:
    """One pass over the work."""

    seconds: float
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int

    @property
    def rate(self) -> float:
        return self.output_tokens / self.seconds


def main(arguments: Sequence[str]) -> int:
    args = _parser().parse_args(arguments)
    inputs, outputs = Range.parse(args.input_len, "input-len"), Range.parse(args.output_len, "output-len")
    settings = {key: value for key, value in _engine_settings(args).items() if value is not None}
    with LLM(args.model, progress=_progress, **settings) as llm:
        work = Work.make(args.num_prompts, inputs, outputs, llm.facts.vocab, args.seed)
        print(_facts(llm), file=sys.stderr)
        llm.generate(WARM_PROMPT, SamplingParams(max_tokens=4, ignore_eos=True, temperature=args.temperature))
        runs = [_run(llm, work, args) for _ in range(args.repeat)]
    report: dict[str, Any] = {
        "model": args.model, "num_prompts": args.num_prompts, "input_len": args.input_len,
        "output_len": args.output_len, "seed": args.seed, "temperature": args.temperature,
        "settings": settings, "runs": [asdict(run) | {"tokens_per_second": run.rate} for run in runs],
    }  # fmt: skip
    best = max(runs, key=lambda run: run.rate)
    if args.against:
        seconds = AGAINST[args.against](Path(args.model), work, args)
        report["against"] = {
            "name": args.against,
            "seconds": seconds,
            "tokens_per_second": work.tokens / seconds,
        }
        print(f"{args.against}: {work.tokens / seconds:,.1f} output tokens/s ({seconds:.2f} s)")
        print(f"ratio: {best.rate * seconds / work.tokens:.2f}x")
    if args.json:
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _run(llm: LLM, work: Work, args: argparse.Namespace) -> Run:
    params = [
        SamplingParams(max_tokens=n, ignore_eos=True, temperature=args.temperature, seed=i)
        for i, n in enumerate(work.outputs)
    ]
    began = time.perf_counter()
    outputs = llm.generate(work.prompts, params)
    seconds = time.perf_counter() - began
    made = sum(len(output.token_ids) for output in outputs)
    assert made == work.tokens, f"{made} tokens came, {work.tokens} were asked for"
    run = Run(seconds, made, sum(map(len, work.prompts)), sum(o.cached_tokens for o in outputs))
    print(
        f"baton: {run.rate:,.1f} output tokens/s ({run.output_tokens:,} in {seconds:.2f} s; "
        f"{run.prompt_tokens:,} prompt tokens, {run.cached_tokens:,} of them cached)"
    )
    return run


def _engine_settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in (*ENGINE, "mixed", "overlap")}


def _facts(llm: LLM) -> str:
    f = llm.facts
    return (
        f"{f.device} {f.dtype}, attention {f.attention}, {f.pages:,} pages of {f.page_size} tokens, "
        f"max_model_len {f.max_model_len}, TP {f.tensor_parallel}, ready in {f.seconds:.1f} s"
    )


def _progress(stage: str, done: float) -> None:
    print(f"\r{stage} {done:4.0%}", end="\n" if done >= 1 else "", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("baton bench offline", description=__doc__, formatter_class=plain)
    add = parser.add_argument
    add("--model", required=True, help="directory or hub id of a checkpoint")
    add("--num-prompts", type=int, default=256, help="default 256")
    add("--input-len", default="100:1024", help="prompt tokens, N or LOW:HIGH; default 100:1024")
    add("--output-len", default="100:1024", help="output tokens, N or LOW:HIGH; default 100:1024")
    add("--seed", type=int, default=0, help="of prompts and lengths; default 0")
    add("--temperature", type=float, default=0.6, help="0 is greedy; default 0.6")
    add(
        "--repeat",
        type=int,
        default=1,
        help="passes over the work; later ones find prompts cached; default 1",
    )
    add("--against", choices=sorted(AGAINST), help="run the same work through another engine and compare")
    add("--json", metavar="FILE", help="write settings and figures here")
    engine = parser.add_argument_group("engine", "left out: the engine's defaults")
    for name, kind in ENGINE.items():
        engine.add_argument("--" + name.replace("_", "-"), type=kind)
    engine.add_argument("--mixed", action=argparse.BooleanOptionalAction)
    engine.add_argument("--overlap", action=argparse.BooleanOptionalAction)
    return parser
