"""What answers in a given form cost: checking and compiling a schema, masks, and the steps of an engine.

    python loadtest/bench_forms.py [--vocabulary 151936] [--prompts 32] [--tokens 128] [--device cuda]
        [--model DIR --load-format dummy]

First the masks alone, for a vocabulary as large as Qwen3's made of drawn words; then a model, the bundled one
unless another is named: the same prompts without a form, all with one, and half of them with one, whose rates
are told apart; each in turn three times. On a CPU, figures of the second part hold as ratios.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from baton.core.types import SamplingParams
from baton.engine import LLM
from baton.grammar import forms
from baton.grammar.matcher import Grammars
from baton.tiny import model_path

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["page", "pod"]},
    },
    "required": ["name", "age", "tags", "kind"],
    "additionalProperties": False,
}
ANSWER = b'{"name": "banana fofana", "age": 77, "tags": ["lala", "koko mimi", "tutu"], "kind": "page"}'


class Drawn:
    """A vocabulary of bytes and of words that nobody says."""

    bos_id = None

    def __init__(self, size: int) -> None:
        draw, words = random.Random(1), set[bytes]()
        while len(words) < size - 257:
            syllables = [
                draw.choice("bcdfghjklmnprstvw") + draw.choice("aeiou") for _ in range(draw.randint(1, 5))
            ]
            words.add((draw.choice(["", " "]) + "".join(syllables) + draw.choice(["", "s", "n"])).encode())
        self.words = [*(bytes([byte]) for byte in range(256)), *sorted(words), b"<end>"]
        self.size = size
        self.special_ids = frozenset([size - 1])
        self.eos_ids = (size - 1,)

    def token_bytes(self, id: int) -> bytes:
        return self.words[id]

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        return list(text.encode())


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def masks(vocabulary: int) -> None:
    words = Drawn(vocabulary)
    grammars = Grammars(lambda: words, vocabulary, words.eos_ids)  # type: ignore[arg-type, return-value]
    print(f"tokenizer of {vocabulary}, once: {timed(lambda: grammars.matcher(forms.regex('a'))):.2f} s")
    print(f"schema: checked in {1e3 * timed(lambda: forms.json_schema(PERSON)):.2f} ms, ", end="")
    schema = forms.json_schema(PERSON)
    print(f"compiled in {1e3 * timed(lambda: grammars.matcher(schema)):.2f} ms")
    for number in range(3):
        matcher, took = grammars.matcher(schema), []
        for byte in ANSWER:
            took.append(timed(lambda: grammars.masks([matcher])))  # noqa: B023 (called at once)
            assert matcher.take(byte), matcher.wrong
        told = f"median {1e6 * statistics.median(took):.1f} µs, mean {1e6 * statistics.mean(took):.1f}, most"
        print(f"a mask, answer {number + 1}: {told} {1e6 * max(took):.0f}")
    many = [grammars.matcher(schema) for _ in range(256)]
    steps = []
    for byte in ANSWER:
        steps.append(timed(lambda: grammars.masks(many)))
        for matcher in many:
            matcher.take(byte)
    told = f"median {1e3 * statistics.median(steps):.1f} ms, most {1e3 * max(steps):.1f}"
    print(f"256 masks of one step: {told}")


def steps(prompts: int, tokens: int, **engine: Any) -> None:
    free = SamplingParams(max_tokens=tokens, temperature=0.6, ignore_eos=True, seed=1)
    letters = forms.regex(f"[a-z ]{{{8 * tokens}}}")
    held = SamplingParams(max_tokens=tokens, temperature=0.6, seed=1, grammar=letters)
    half = prompts // 2
    work = {
        "free": [("", [free] * prompts)],
        "in a form": [("", [held] * prompts)],
        "half of them": [(", those without", [free] * half), (", those with", [held] * half)],
    }
    with LLM(max_running=prompts, **engine) as llm, ThreadPoolExecutor(2) as threads:

        def rate(params: list[SamplingParams]) -> float:
            texts = [[3 + place, *range(5, 40)] for place in range(len(params))]
            return len(params) * tokens / timed(lambda: llm.generate(texts, params))

        llm.generate([[1, 2, 3]] * prompts, [free, held] * half)
        found: dict[str, list[float]] = {}
        for _ in range(3):
            for name, lists in work.items():
                for (whose, _), told in zip(lists, threads.map(rate, [one for _, one in lists]), strict=True):
                    found.setdefault(name + whose, []).append(told)
    for name, rates in found.items():
        ratio = statistics.median(rates) / statistics.median(found["free"])
        print(f"{name}: {', '.join(f'{rate:.0f}' for rate in rates)} tokens/s; {ratio:.2f} of free")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", default=str(model_path()))
    parser.add_argument("--load-format", default="auto")
    args = parser.parse_args()
    masks(args.vocabulary)
    steps(args.prompts, args.tokens, model=args.model, device=args.device, load_format=args.load_format)
