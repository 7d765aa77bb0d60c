"""Prompts of things the tiny model knows, so that its choices are clear, and what one engine answers."""

from __future__ import annotations

from collections.abc import Sequence

from baton.engine import LLM, SamplingParams
from baton.tiny.corpus import documents


def texts(count: int, length: int, seed: int) -> list[str]:
    """Each begins in its own way, so that no two share a page."""
    source = documents(seed)
    made = []
    for i in range(count):
        words = [f"{i}-{seed}"]
        while sum(map(len, words)) < length:
            document = next(source)
            words.append(document.text or " ".join(message.content for message in document.messages))
        made.append("\n".join(words)[:length])
    return made


def wanted(alone: LLM, prompts: Sequence[str], max_tokens: int) -> list[str]:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)
    return [output.text for output in alone.generate(list(prompts), sampling)]
