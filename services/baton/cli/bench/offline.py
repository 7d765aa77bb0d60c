"""`baton bench offline`: how many tokens a second one engine makes of prompts that are all there at once.

    baton bench offline --model DIR --num-prompts 256 --input-len 100:1024 --output-len 100:1024 --seed 0

`--against transformers` (one prompt at a time) and `--against transformers-batched` (eight together)
run the same work through transformers' own generation in this process, in turn with the engine: pass by
pass, `--repeat` times, so that both meet the same noise, and the median of the passes' ratios is told.
Lengths are exact on all sides: end-of-sequence tokens are ignored. Each pass has prompts of its own
(seed, seed + 1, ...), so that none is found in a cache. On a GPU leave room with --memory-fraction.
The longest answers are begun first, as `LLM` does with any list, unless `--policy` says otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from baton.cli.bench.against import AGAINST, Rival, Setup
from baton.cli.bench.work import Range, Work
from baton.core.types import SamplingParams
from baton.engine import LLM

WARM_PROMPT = tuple(range(16))
ENGINE = {
    "device": str, "dtype": str, "load_format": str, "tensor_parallel": int, "page_size": int, "pages": int,
    "max_model_len": int, "cache": str, "memory_fraction": float, "attention": str, "max_running": int,
    "prefill_budget": int, "policy": str, "graph_max_batch": int, "graph_max_tokens": int, "threads": int,
    "products": str, "all_reduce": str, "quantization": str, "kv_cache_dtype": str, "profile": str,
    "profile_from": int,
}  # fmt: skip
"""The engine's settings that can be given, by their own names."""
ASKED = (
    "model", "num_prompts", "input_len", "output_len", "seed", "temperature", "top_k", "top_p", "min_p",
    "repeat",
)  # fmt: skip


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


@dataclass(frozen=True, slots=True)
class Pass:
    """The same work through every engine, one after the other."""

    seed: int
    baton: Run
    rivals: dict[str, float]
    """Seconds of each."""

    def ratio(self, name: str) -> float:
        """How many times as fast as the other the engine was."""
        return self.rivals[name] / self.baton.seconds


def main(arguments: Sequence[str]) -> int:
    args = _parser().parse_args(arguments)
    inputs, outputs = Range.parse(args.input_len, "input-len"), Range.parse(args.output_len, "output-len")
    settings = {key: value for key, value in _engine_settings(args).items() if value is not None}
    passes: list[Pass] = []
    sampling = _sampling(args)
    with LLM(args.model, progress=_progress, **settings) as llm:
        print(_facts(llm), file=sys.stderr)
        llm.generate(WARM_PROMPT, replace(sampling, max_tokens=4))
        rivals = {name: AGAINST[name](_setup(args, llm, sampling)) for name in dict.fromkeys(args.against)}
        for seed in range(args.seed, args.seed + args.repeat):
            work = Work.make(args.num_prompts, inputs, outputs, llm.facts.vocab, seed)
            passes.append(Pass(seed, _run(llm, work, sampling), _run_rivals(rivals, work)))
    medians = _medians(passes)
    if args.json:
        asked = {name: getattr(args, name) for name in ASKED}
        report = {**asked, "settings": settings, "passes": [asdict(one) for one in passes], **medians}
        Path(args.json).write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _setup(args: argparse.Namespace, llm: LLM, sampling: SamplingParams) -> Setup:
    return Setup(
        model=args.model, dummy=args.load_format == "dummy", device=llm.facts.device, dtype=llm.facts.dtype,
        threads=args.threads or 0, sampling=sampling,
    )  # fmt: skip


def _sampling(args: argparse.Namespace) -> SamplingParams:
    return SamplingParams(
        temperature=args.temperature, top_k=args.top_k, top_p=args.top_p, min_p=args.min_p, ignore_eos=True
    )


def _run_rivals(rivals: Mapping[str, Rival], work: Work) -> dict[str, float]:
    seconds = {}
    for name, rival in rivals.items():
        seconds[name] = rival.run(work)
        rate = work.tokens / seconds[name]
        print(f"{name}: {rate:,.1f} output tokens/s ({work.tokens:,} in {seconds[name]:.2f} s)")
    return seconds


def _medians(passes: Sequence[Pass]) -> dict[str, Any]:
    """Of the rates, and of the ratios pass by pass; told, and returned for the report."""
    rate = median(one.baton.rate for one in passes)
    if len(passes) > 1:
        print(f"median of {len(passes)} passes: {rate:,.1f} output tokens/s")
    ratios = {}
    for name in passes[0].rivals:
        each = [one.ratio(name) for one in passes]
        ratios[name] = median(each)
        print(f"baton / {name}: {ratios[name]:.2f}x ({min(each):.2f} to {max(each):.2f})")
    return {"tokens_per_second": rate, "ratios": ratios}


def _run(llm: LLM, work: Work, sampling: SamplingParams) -> Run:
    params = [replace(sampling, max_tokens=n, seed=i) for i, n in enumerate(work.outputs)]
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
    kv = f", KV {f.kv_dtype}" if f.kv_dtype else ""
    sums = f" (sums: {f.all_reduce})" if f.all_reduce else ""
    return (
        f"{f.device} {f.dtype}{kv}, attention {f.attention}, {f.pages:,} pages of {f.page_size} tokens, "
        f"max_model_len {f.max_model_len}, TP {f.tensor_parallel}{sums}, ready in {f.seconds:.1f} s"
    )


def _progress(stage: str, done: float) -> None:
    print(f"\r{stage} {done:4.0%}", end="\n" if done >= 1 else "", file=sys.stderr)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, not {count}")
    return count


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("baton bench offline", description=__doc__, formatter_class=plain)
    add = parser.add_argument
    add("--model", required=True, help="directory or hub id of a checkpoint")
    add("--num-prompts", type=_count, default=256, help="default 256")
    add("--input-len", default="100:1024", help="prompt tokens, N or LOW:HIGH; default 100:1024")
    add("--output-len", default="100:1024", help="output tokens, N or LOW:HIGH; default 100:1024")
    add("--seed", type=int, default=0, help="of prompts and lengths; default 0")
    add("--temperature", type=float, default=0.6, help="0 is greedy; default 0.6")
    add("--top-k", type=int, default=0, help="sample from so many tokens; default all")
    add("--top-p", type=float, default=1.0, help="sample from the likeliest with this probability; default 1")
    add("--min-p", type=float, default=0.0, help="sample from tokens this likely beside the first; default 0")
    add("--repeat", type=_count, default=1, help="passes, each with prompts of its own; default 1")
    add(
        "--against", action="append", default=[], choices=sorted(AGAINST),
        help="run the same work through this as well, in turn; may be given twice",
    )  # fmt: skip
    add("--json", metavar="FILE", help="write settings and figures here")
    engine = parser.add_argument_group("engine", "left out: the engine's defaults")
    for name, kind in ENGINE.items():
        engine.add_argument("--" + name.replace("_", "-"), type=kind)
    engine.add_argument("--mixed", action=argparse.BooleanOptionalAction)
    engine.add_argument("--overlap", action=argparse.BooleanOptionalAction)
    return parser
