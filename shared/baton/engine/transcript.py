"""From an engine's updates to text: detokenizing and stop strings, one transcript a request.

The engine ends sequences on token ids and lengths; strings are seen here, where text is. When a stop
string appears the caller is told so and aborts the engine's work, which may have run on by a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.core.errors import (
    BatonError,
    Cancelled,
    DeadlineExceeded,
    Draining,
    Failed,
    InvalidField,
    InvalidRequest,
    OutOfPages,
    PeerLost,
    PromptTooLong,
    QueueFull,
    Refused,
    WorkerDied,
)
from baton.core.types import Finish, SamplingParams, TokenLogprob
from baton.protocol.engine import Update
from baton.tokens.detokenize import Detokenizer, detokenizer
from baton.tokens.stop import StopStrings
from baton.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """What one update added."""

    text: str
    token_ids: tuple[int, ...]
    logprob: TokenLogprob | None = None
    finish: Finish | None = None
    stopped_by: str | int | None = None
    """The stop string or stop token that ended it."""
    cached: int | None = None
    prompt_logprobs: tuple[TokenLogprob, ...] | None = None
    offset: int = 0
    """Where in the sequence's whole text the token begins, in characters."""


class Transcript:
    def __init__(
        self,
        sampling: SamplingParams,
        tokenizer: Tokenizer | None,
        eos: frozenset[int],
        prompt: Sequence[int] = (),
    ) -> None:
        """`prompt` is what the text continues: its last word decides whether a space follows it, and a
        character that it began is completed."""
        self.generated = 0
        self.finish: Finish | None = None
        self._sampling = sampling
        self._enders = eos | frozenset(sampling.stop_token_ids)
        self._detokenizer: Detokenizer | None = None
        self._stops: StopStrings | None = None
        if tokenizer is not None:
            self._detokenizer = detokenizer(tokenizer, prompt, skip_special=sampling.skip_special_tokens)
        elif sampling.stop:
            raise InvalidField("stop", "needs a tokenizer, and this model has none; use stop_token_ids")
        if sampling.stop:
            self._stops = StopStrings(sampling.stop, include=sampling.include_stop_str_in_output)

    def resume(self, generated: Sequence[int]) -> str:
        """Go on after tokens that another pod generated: the text that they decided, which the client has.
        What they left undecided comes with the tokens that follow."""
        texts = []
        for token in generated:
            self.generated += 1
            texts.append(self._push(token))
        if self._stops is not None and self._stops.matched is not None:
            raise InvalidField("generated", f"ends with the stop string {self._stops.matched!r}")
        return "".join(texts)

    def take(self, update: Update) -> Delta:
        """The news as text; raises what the engine refused or failed with."""
        if update.error is not None:
            raise error_of(update)
        finish = Finish(update.finish) if update.finish is not None else None
        if update.token is None:
            self.finish = finish
            return Delta(self._rest(), (), finish=finish)
        self.generated += 1
        offset = self._detokenizer.offset if self._detokenizer is not None else 0
        ender = update.token if finish is Finish.STOP and update.token in self._enders else None
        text = "" if ender is not None else self._push(update.token)
        stopped_by: str | int | None = ender
        if self._stops is not None and self._stops.matched is not None:
            finish, stopped_by = Finish.STOP, self._stops.matched
        elif finish is not None:
            text += self._rest()
            if self._stops is not None and self._stops.matched is not None:
                finish, stopped_by = Finish.STOP, self._stops.matched
        self.finish = finish
        return Delta(
            text, (update.token,), update.logprob, finish, stopped_by, update.cached, update.scores, offset
        )

    def _push(self, token: int) -> str:
        if self._detokenizer is None:
            return ""
        text = self._detokenizer.push(token)
        if self._stops is None:
            return text
        if self.generated <= self._sampling.min_tokens:
            return self._stops.skip(text)
        return self._stops.push(text)

    def _rest(self) -> str:
        if self._detokenizer is None:
            return ""
        text = self._detokenizer.finish()
        if self._stops is None:
            return text
        return self._stops.push(text) + self._stops.finish()


_FIELDS: dict[str, type[InvalidField]] = {kind.code: kind for kind in (InvalidField, PromptTooLong)}
_PLAIN: tuple[type[BatonError], ...] = (
    *(InvalidRequest, Refused, QueueFull, Draining, OutOfPages),
    *(DeadlineExceeded, Cancelled, PeerLost, WorkerDied),
)
_KINDS: dict[str, type[BatonError]] = {kind.code: kind for kind in _PLAIN}


def error_of(update: Update) -> BatonError:
    """The error that an update reports, as its own class."""
    assert update.error is not None
    code = update.code or Failed.code
    if code in _FIELDS:
        return _FIELDS[code](update.field or "prompt", _rule(update))
    if code in _KINDS:
        return _KINDS[code](_rule(update))
    error = Failed(update.error)
    error.code = code
    return error


def _rule(update: Update) -> str:
    """The message without the field's name before it, which the error's class adds again."""
    assert update.error is not None
    return update.error.removeprefix(f"{update.field}: ")
