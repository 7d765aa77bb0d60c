"""What sampling means, written a second time: lists and floats in double precision, one token at a time.

The definitions are those of vLLM and of Hugging Face's generation: repetition looks at prompt and
output, presence and frequency at the output alone, and the filters act one after the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from baton.core.types import SamplingParams


def bent(
    logits: Sequence[float], sampling: SamplingParams, prompt: Sequence[int], output: Sequence[int],
    stops: Sequence[int] = (),
) -> list[float]:  # fmt: skip
    """Logits after bias, the floor of min_tokens and penalties: what greedy sampling takes the largest of."""
    values = [float(value) for value in logits]
    for token, bias in sampling.logit_bias:
        values[token] += bias
    if len(output) < sampling.min_tokens:
        for token in stops:
            values[token] = -math.inf
    for token in {*prompt, *output}:
        if values[token] > 0:
            values[token] /= sampling.repetition_penalty
        else:
            values[token] *= sampling.repetition_penalty
    for token in set(output):
        values[token] -= sampling.frequency_penalty * output.count(token) + sampling.presence_penalty
    return values


def distribution(
    logits: Sequence[float], sampling: SamplingParams, prompt: Sequence[int] = (), output: Sequence[int] = (),
    stops: Sequence[int] = (),
) -> list[float]:  # fmt: skip
    """Probability of every token."""
    values = bent(logits, sampling, prompt, output, stops)
    if sampling.temperature == 0.0:
        likeliest = values.index(max(values))
        return [float(token == likeliest) for token in range(len(values))]
    chances = softmax([value / sampling.temperature for value in values])
    floor = sampling.min_p * max(chances)
    chances = [chance if chance >= floor else 0.0 for chance in chances]
    ranked = sorted(range(len(chances)), key=lambda token: (-chances[token], token))
    if sampling.top_k > 0:
        ranked = ranked[: sampling.top_k]
    total = sum(chances[token] for token in ranked)
    kept: dict[int, float] = {}
    for token in ranked:
        if kept and sum(kept.values()) >= sampling.top_p * total:
            break
        kept[token] = chances[token]
    whole = sum(kept.values())
    return [kept.get(token, 0.0) / whole for token in range(len(chances))]


def softmax(values: Sequence[float]) -> list[float]:
    most = max(values)
    weights = [math.exp(value - most) for value in values]
    return [weight / sum(weights) for weight in weights]


def log_softmax(values: Sequence[float]) -> list[float]:
    most = max(values)
    whole = most + math.log(sum(math.exp(value - most) for value in values))
    return [value - whole for value in values]
