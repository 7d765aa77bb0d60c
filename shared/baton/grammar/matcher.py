"""Follows answers through their grammars: which tokens may come next, and whether anything may.

`Grammars` belongs to whoever schedules; it makes a `Matcher` for each sequence and fills the masks of a step.
Tokenizer and grammars are compiled in a thread, which llguidance does without holding Python up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from baton.core.errors import InvalidField
from baton.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:  # a tenth of a second that only some engines need
    from llguidance import LLMatcher, LLTokenizer

T = TypeVar("T")

FUEL, ITEMS, STATES = 100_000, 25_000, 20_000
"""llguidance's limits, lower than its own: a mask takes some milliseconds at most, and a grammar some 40 MB.
An answer whose grammar needs more ends with an error."""
KEPT = 64
"""Compiled grammars, the latest asked for: clients ask the same again and again."""
WORD = 4
"""Bytes that a mask is a multiple of."""


class Matcher:
    """One sequence's place in its grammar."""

    __slots__ = ("_inner",)

    def __init__(self, inner: LLMatcher) -> None:
        self._inner = inner

    def take(self, token: int) -> bool:
        """Go on by a token; False when that cannot be: it is not allowed, or too much to follow."""
        return self._inner.consume_token(token)

    @property
    def over(self) -> bool:
        """Whether nothing can follow."""
        return self._inner.is_stopped()

    @property
    def wrong(self) -> str:
        """Why it cannot go on; empty while it can."""
        why = self._inner.get_error()
        return f"the answer cannot follow its grammar any further: {why}" if why else ""

    def fill(self, mask: npt.NDArray[np.uint8]) -> None:
        """Set the bits of the tokens that may come next, the first token's lowest."""
        self._inner.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)


class Grammars:
    def __init__(self, tokenizer: Callable[[], Tokenizer], vocab: int, eos: Sequence[int]) -> None:
        """`tokenizer` loads the model's, or raises why there is none; `vocab` is the width of its logits."""
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._eos = tuple(eos)
        self._vocabulary: Future[LLTokenizer] | None = None
        self._compiled: OrderedDict[str, Future[LLMatcher]] = OrderedDict()

    def __repr__(self) -> str:
        return f"Grammars({len(self._compiled)} compiled)"

    @property
    def mask_bytes(self) -> int:
        return -(-self._vocab // (8 * WORD)) * WORD

    def warm(self) -> None:
        """Begin with the tokenizer, so that the first who asks need not wait for it."""
        if self._vocabulary is None:
            self._vocabulary = _aside(self._read)

    def ready(self, grammar: str) -> bool:
        """Whether `matcher` need not wait; if not, compiling has begun."""
        return self._compile(grammar).done()

    def matcher(self, grammar: str, generated: Sequence[int] = ()) -> Matcher:
        """For an answer of which these tokens are there already; InvalidField for what cannot be followed."""
        compiled = self._compile(grammar)
        if (failed := compiled.exception()) is not None:  # whatever it is, the engine goes on
            raise InvalidField("grammar", f"cannot be followed: {failed}") from failed
        inner = compiled.result().deep_copy()
        if inner.is_error():
            raise InvalidField("grammar", inner.get_error())
        if generated and not inner.consume_tokens(list(generated)):
            raise InvalidField("generated", f"does not follow the grammar: {inner.get_error()}")
        return Matcher(inner)

    def masks(self, matchers: Sequence[Matcher]) -> npt.NDArray[np.uint8]:
        """What may come next of each: a row of bits."""
        made = np.empty((len(matchers), self.mask_bytes), dtype=np.uint8)
        for matcher, mask in zip(matchers, made, strict=True):
            matcher.fill(mask)
        return made

    def _compile(self, grammar: str) -> Future[LLMatcher]:
        self.warm()
        found = self._compiled.get(grammar)
        if found is None:
            found = self._compiled[grammar] = _aside(lambda: self._made(grammar))
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(grammar)
        return found

    def _made(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        assert self._vocabulary is not None
        limits = LLParserLimits(
            step_lexer_fuel=FUEL, step_max_items=ITEMS, max_lexer_states=STATES, verbose_errors=False
        )
        return LLMatcher(self._vocabulary.result(), grammar, log_level=0, limits=limits)

    def _read(self) -> LLTokenizer:
        try:
            from llguidance import LLTokenizer, TokenizerWrapper
        except ImportError as error:
            raise InvalidField("grammar", "needs the package llguidance, which is not installed") from error
        words = _Words(self._tokenizer(), self._vocab, self._eos)
        return LLTokenizer(TokenizerWrapper(words), n_vocab=self._vocab, eos_token=list(words.eos))


class _Words:
    """The tokenizer as llguidance asks for it."""

    def __init__(self, tokenizer: Tokenizer, vocab: int, eos: Sequence[int]) -> None:
        size = min(tokenizer.size, vocab)
        self.tokens = [tokenizer.token_bytes(id) if id < size else b"" for id in range(vocab)]
        self.special_token_ids = sorted(tokenizer.special_ids)
        self.eos = tuple(eos) or tokenizer.eos_ids
        self.eos_token_id = self.eos[0]
        self.bos_token_id = tokenizer.bos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False)


def _aside(work: Callable[[], T]) -> Future[T]:
    """In a thread that nobody waits for at the end."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="grammar", daemon=True).start()
    return future
