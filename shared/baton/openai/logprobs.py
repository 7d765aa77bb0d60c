"""The three shapes in which clients get log-probabilities: chat, completions, and SGLang's.

A token is named by its text. Where that is no whole character, completions say its bytes
("bytes:\\xe4"), because there names are keys and must differ; chat has a list of bytes beside the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from baton.core.types import TokenLogprob
from baton.openai.shape import Prompt, Shape
from baton.tokens.detokenize import detokenizer
from baton.tokens.tokenizer import Tokenizer

_LEAST = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


def chat_logprobs(tokens: Iterable[TokenLogprob], tokenizer: Tokenizer, shape: Shape) -> dict[str, Any]:
    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        content = tokenizer.token_bytes(token_id)
        name = f"token_id:{token_id}" if shape.tokens_as_ids else content.decode("utf-8", "replace")
        return {"token": name, "logprob": _finite(logprob), "bytes": list(content)}

    content = [
        {**entry(token.token_id, token.logprob), "top_logprobs": [entry(*other) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    tokens: Sequence[TokenLogprob | int],
    offsets: Sequence[int],
    tokenizer: Tokenizer,
    shape: Shape,
) -> dict[str, Any]:
    """A token given as its bare id has no log-probability: the first one of an echoed prompt."""

    def name(token_id: int) -> str:
        return f"token_id:{token_id}" if shape.tokens_as_ids else _distinct(tokenizer.token_bytes(token_id))

    def likeliest(token: TokenLogprob) -> dict[str, float]:
        # The chosen token is always among them, so there may be one more than was asked for.
        named = {name(token_id): _finite(logprob) for token_id, logprob in token.top}
        return named | {name(token.token_id): _finite(token.logprob)}

    known = [None if isinstance(token, int) else token for token in tokens]
    ids = [token if isinstance(token, int) else token.token_id for token in tokens]
    return {
        "tokens": [name(token_id) for token_id in ids],
        "token_logprobs": [token and _finite(token.logprob) for token in known],
        "top_logprobs": [token and likeliest(token) for token in known],
        "text_offset": list(offsets),
    }


def prompt_logprobs(
    tokens: Iterable[TokenLogprob | None], tokenizer: Tokenizer
) -> list[dict[int, Any] | None]:
    """vLLM's form: for each token of the prompt, the likeliest and the token itself, by id."""

    def entry(token_id: int, logprob: float, rank: int) -> dict[str, Any]:
        return {
            "logprob": _finite(logprob),
            "rank": rank,
            "decoded_token": tokenizer.token_text(token_id),
        }

    def entries(token: TokenLogprob) -> dict[int, Any]:
        likeliest = {tid: entry(tid, logprob, rank + 1) for rank, (tid, logprob) in enumerate(token.top)}
        return likeliest | {token.token_id: entry(token.token_id, token.logprob, token.rank)}

    return [None if token is None else entries(token) for token in tokens]


Scored = tuple[float | None, int, str | None]
"""SGLang's: (log-probability, token id, text or null)."""


def scored(tokens: Iterable[TokenLogprob], tokenizer: Tokenizer, shape: Shape) -> list[Scored]:
    return [_scored(token.token_id, token.logprob, tokenizer, shape) for token in tokens]


def top_scored(tokens: Iterable[TokenLogprob], tokenizer: Tokenizer, shape: Shape) -> list[list[Scored]]:
    return [[_scored(*other, tokenizer, shape) for other in token.top] for token in tokens]


def _scored(token_id: int, logprob: float, tokenizer: Tokenizer, shape: Shape) -> Scored:
    text = tokenizer.token_text(token_id) if shape.logprob_text else None
    return _finite(logprob), token_id, text


def prompt_offsets(prompt: Prompt, tokenizer: Tokenizer) -> list[int]:
    """Where each token of an echoed prompt begins. A special token has a place there only if its client wrote
    it: others were added, or came as ids, and are not echoed."""
    echoed, text, specials = prompt.text or "", detokenizer(tokenizer), 0
    offsets = []
    for token_id in prompt.token_ids:
        offsets.append(text.offset + specials)
        text.push(token_id)
        if token_id in tokenizer.special_ids:
            written = tokenizer.token(token_id)
            specials += len(written) if echoed.startswith(written, offsets[-1]) else 0
    return offsets


def _distinct(content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content)


def _finite(logprob: float) -> float:
    return max(logprob, _LEAST)
