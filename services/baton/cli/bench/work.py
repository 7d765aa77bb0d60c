"""What a benchmark asks for: reproducible prompts and lengths, made from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from baton.core.errors import InvalidSetting


@dataclass(frozen=True, slots=True)
class Range:
    """Lengths drawn uniformly, both ends included."""

    low: int
    high: int

    @staticmethod
    def parse(text: str, setting: str) -> Range:
        low, _, high = text.partition(":")
        try:
            found = Range(int(low), int(high or low))
        except ValueError:
            raise InvalidSetting(setting, f"must be N or LOW:HIGH, not {text!r}") from None
        if not 1 <= found.low <= found.high:
            raise InvalidSetting(setting, f"must have 1 ≤ LOW ≤ HIGH, not {text!r}")
        return found

    def draw(self, chance: random.Random) -> int:
        return chance.randint(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Work:
    """Prompts of random token ids and how many tokens each is to be answered with."""

    prompts: tuple[tuple[int, ...], ...]
    outputs: tuple[int, ...]

    @staticmethod
    def make(count: int, inputs: Range, outputs: Range, vocab: int, seed: int) -> Work:
        """The same draws in the same order as the small engines' common benchmark: 256 prompts of
        100:1024 tokens, 100:1024 tokens out, seed 0 make 133,966 output tokens for everybody."""
        chance = random.Random(seed)
        most = min(vocab - 1, 10_000)  # below every special token of the models that are compared
        prompts = []
        for _ in range(count):
            prompts.append(tuple(chance.randint(0, most) for _ in range(inputs.draw(chance))))
        return Work(tuple(prompts), tuple(outputs.draw(chance) for _ in range(count)))

    @property
    def tokens(self) -> int:
        """Output tokens in all."""
        return sum(self.outputs)
