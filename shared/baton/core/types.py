"""The values that travel through every layer: what is asked for and what comes back.

They import nothing but the standard library and never change once made. A `Request` is what a
client asked; the engine's own mutable view of it is `baton.engine.sequence.Sequence`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from baton.core.errors import InvalidField

MAX_TOP_LOGPROBS = 20
"""The most alternatives per token that a client may ask for (OpenAI's limit)."""

COLDEST = 1e-5
"""Below this temperature the likeliest token is taken: logits divided by less are infinite before long."""


class Finish(StrEnum):
    """Why a sequence ended. Every sequence ends in exactly one of these."""

    STOP = "stop"
    """An end-of-sequence token, a stop token or a stop string."""
    LENGTH = "length"
    """`max_tokens` or the model's length was reached."""
    ABORT = "abort"
    """The client or an operator ended it."""
    ERROR = "error"
    """It could not be finished; an error came with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen. The names are OpenAI's, vLLM's and SGLang's where those exist."""

    max_tokens: int | None = 16
    """The most tokens to generate; None is as many as the model's length leaves."""
    min_tokens: int = 0
    """End-of-sequence and stop tokens are impossible before this many were generated."""
    temperature: float = 1.0
    """0 is greedy, and so is what is next to it."""
    top_p: float = 1.0
    top_k: int = 0
    """0 or -1 keeps all."""
    min_p: float = 0.0
    """Tokens less likely than this share of the likeliest are dropped."""
    seed: int | None = None
    """The same seed gives the same tokens, whatever else is in the batch."""
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, bias added to its logit)."""
    stop: tuple[str, ...] = ()
    """Strings that end the text; they are cut from it."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    """How many sequences to make of one prompt."""
    logprobs: int | None = None
    """None for no log-probabilities; k for those of the chosen token and of the k likeliest."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt."""
    grammar: str = ""
    """What the answer may be, as `baton.grammar.forms` writes it; empty for anything."""
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False

    def __post_init__(self) -> None:
        def need(ok: bool, name: str, rule: str) -> None:
            if not ok:
                raise InvalidField(name, f"must be {rule}, not {getattr(self, name)!r}")

        for name in ("max_tokens", "min_tokens", "top_k"):
            need((getattr(self, name) or 0) < 2**63, name, "a 64-bit number")  # what messages carry
        need(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "1 or more")
        need(self.min_tokens >= 0, "min_tokens", "0 or more")
        if self.max_tokens is not None:
            need(self.min_tokens <= self.max_tokens, "min_tokens", f"at most max_tokens ({self.max_tokens})")
        need(
            not (self.grammar and self.min_tokens), "min_tokens", "0 where a grammar says when an answer ends"
        )
        need(0.0 <= self.temperature <= 100.0, "temperature", "between 0 and 100")
        need(0.0 < self.top_p <= 1.0, "top_p", "above 0 and at most 1")
        need(self.top_k >= -1, "top_k", "-1, 0 (all) or a count of tokens")
        need(0.0 <= self.min_p <= 1.0, "min_p", "between 0 and 1")
        need(self.seed is None or -(2**63) <= self.seed < 2**64, "seed", "a 64-bit number")
        need(-2.0 <= self.presence_penalty <= 2.0, "presence_penalty", "between -2 and 2")
        need(-2.0 <= self.frequency_penalty <= 2.0, "frequency_penalty", "between -2 and 2")
        # What a logit is divided by: with next to nothing it is infinite, and the answer is noise.
        need(0.01 <= self.repetition_penalty <= 10.0, "repetition_penalty", "between 0.01 and 10")
        need(1 <= self.n <= 128, "n", "between 1 and 128")
        for name in ("logprobs", "prompt_logprobs"):
            k = getattr(self, name)
            need(k is None or 0 <= k <= MAX_TOP_LOGPROBS, name, f"between 0 and {MAX_TOP_LOGPROBS}")
        need(all(s for s in self.stop), "stop", "made of strings that are not empty")
        need(len(self.stop) <= 16, "stop", "at most 16 strings")
        need(all(0 <= t < 2**31 for t in self.stop_token_ids), "stop_token_ids", "token ids of 0 or more")
        need(len(self.stop_token_ids) <= 128, "stop_token_ids", "at most 128 token ids")
        need(len(self.logit_bias) <= 1024, "logit_bias", "at most 1024 entries")
        for token, bias in self.logit_bias:
            if not 0 <= token < 2**31 or not -100.0 <= bias <= 100.0:
                raise InvalidField("logit_bias", f"{token}: {bias} needs a token id and -100 to 100")

    @property
    def greedy(self) -> bool:
        return self.temperature < COLDEST or self.top_k == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One sequence to generate: a prompt of token ids and how to go on from it.

    `n` has been expanded before this point: a request makes exactly one sequence.
    """

    id: str
    token_ids: tuple[int, ...]
    """The prompt. Never empty."""
    generated: tuple[int, ...] = ()
    """Tokens that another worker generated before it was lost: they count as output, for limits, penalties
    and seeds, and are not sampled or told again."""
    identities: tuple[bytes, ...] = ()
    """The chained page identities of the prompt's full pages (`baton.tokens.identity`); those over
    `generated` may follow."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    priority: int = 0
    """Lower starts sooner."""
    salt: bytes = b""
    """Separates caches: adapter, tenant; already part of `identities`."""


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of one token and of the likeliest at its place (unscaled softmax)."""

    token_id: int
    logprob: float
    rank: int
    """1 is the likeliest."""
    top: tuple[tuple[int, float], ...] = ()
