"""Follows answers through their grammars: which tokens may come next, and whether anything may.

`Grammars` belongs to whoever schedules; it makes a `Matcher` for each sequence and fills the masks of a step,
the first token's bit lowest. Tokenizer and grammars are compiled in two threads, which holds nobody up: the
library lets go of Python meanwhile. So it does where masks that take long are begun with ahead (`lanes.py`).

Copies of a compiled grammar share its lexer, whose states add up until a limit ends all of them at once. So a
matcher that fails is made anew and led where it was; only if that fails too, the answer cannot go on.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from baton.core.errors import InvalidField
from baton.grammar.lanes import Lanes, Made, Place
from baton.tokens.tokenizer import Tokenizer

if TYPE_CHECKING:  # a tenth of a second that only some engines need
    from llguidance import LLMatcher, LLTokenizer

LEXER_FUEL, ITEMS = 200_000, 10_000
"""llguidance's limits, lower than its own: to begin with a lexer, and for one mask."""
STATES = 250_000
"""Of a lexer, a kilobyte or two each."""
KEPT = 64
"""Compiled grammars, the latest asked for: clients ask the same again and again."""
LIVES = 4
"""How often one answer may begin anew with a lexer of its own."""
THREADS = 2
WORD = 4
"""Bytes that a mask is a multiple of."""
QUICK_S = 0.05
"""What takes no longer to compile may be compiled for each lane; what does takes memory, too."""


@dataclass(frozen=True, slots=True)
class Form:
    """A compiled grammar, and what it takes in seconds: to compile, and to fill an answer's first mask."""

    inner: LLMatcher
    compiling: float = 0.0
    first: float = 0.0


Compiled = Future[Form]


class Matcher:
    """One sequence's place in its grammar.

    While its mask is `making`, a thread has it: no token may be taken before."""

    __slots__ = (
        "_anew", "_grammar", "_inner", "_lane", "_lives", "_mask", "_moves", "_taken", "making", "seconds",
    )  # fmt: skip

    def __init__(self, grammar: str, form: Form, anew: Callable[[], LLMatcher]) -> None:
        """At the beginning, with the form's lexer; `anew` compiles the grammar again."""
        self._grammar = grammar
        self._inner = form.inner
        self._moves = form.compiling <= QUICK_S
        self._taken: list[int] = []
        self._lives = LIVES
        self._anew = anew
        self._lane: int | None = None
        self._mask: npt.NDArray[np.uint8] | None = None
        self.seconds = form.first
        """What its last mask took, and so what its next one is expected to take."""
        self.making = False

    def take(self, token: int) -> bool:
        """Go on by a token; False when that cannot be: it is not allowed, or too much to follow."""
        assert not self.making, "a token for a matcher whose mask is being computed"
        self._mask = None
        self._taken.append(token)
        if self._inner.consume_token(token) and not self._inner.is_error():
            return True
        return self._again()

    def _again(self) -> bool:
        if not self._lives:
            return False
        self._lives -= 1
        self._inner, self._lane = self._anew(), None
        return self._inner.consume_tokens(self._taken) and not self._inner.is_error()

    @property
    def over(self) -> bool:
        """Whether nothing can follow."""
        return self._inner.is_stopped()

    @property
    def wrong(self) -> str:
        """Why it cannot go on; empty while it can."""
        why = self._inner.get_error()
        return f"the answer cannot follow its grammar any further: {why}" if why else ""

    @property
    def made(self) -> bool:
        """Whether its mask is there already."""
        return self._mask is not None

    def fill(self, mask: npt.NDArray[np.uint8]) -> None:
        """Set the bits of the tokens that may come next."""
        assert not self.making, "a matcher whose mask is being computed"
        if self._mask is not None:
            mask[:] = self._mask
            return
        began = time.perf_counter()
        self._inner.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        self.seconds = time.perf_counter() - began
        if self._inner.is_error() and self._again():
            self._inner.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)

    def lend(self) -> Place:
        """For a thread that computes its mask."""
        assert not self.making, "a matcher's mask is computed by one thread"
        self.making = True
        args = (self._grammar, self._taken, self._inner, self._lives, self._lane, self._moves, self.seconds)
        return Place(*args)

    def back(self, made: Made) -> None:
        """What came of it."""
        self.making = False
        self._mask, self._inner, self._lives, self._lane = made.mask, made.inner, made.lives, made.lane
        self.seconds = made.seconds


class Grammars:
    def __init__(
        self, tokenizer: Callable[[], Tokenizer], vocab: int, eos: Sequence[int], states: int = STATES,
        lanes: int | None = None,
    ) -> None:  # fmt: skip
        """`tokenizer` loads the model's, or raises why there is none; `vocab` is the width of its logits;
        `states` are what a lexer may have, of all answers that share it; `lanes`, threads for masks that take
        long, as many as there are cores for if None."""
        self._states = states
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._eos = tuple(eos)
        self._vocabulary: Future[LLTokenizer] = Future()
        self._begun = False
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._compiled: OrderedDict[str, Compiled] = OrderedDict()
        self._count = lanes
        self._lanes: Lanes | None = None
        self._making: dict[int, list[Matcher]] = {}
        """By the lanes' number."""

    def __repr__(self) -> str:
        return f"Grammars({len(self._compiled)} compiled)"

    @property
    def mask_bytes(self) -> int:
        return -(-self._vocab // (8 * WORD)) * WORD

    def warm(self) -> None:
        """Begin with the tokenizer, so that the first who asks need not wait for it."""
        if not self._begun:
            self._begun = True
            self._work.put(_settling(self._vocabulary, self._read))
            for number in range(THREADS):
                threading.Thread(target=self._serve, name=f"grammar-{number}", daemon=True).start()

    def compile(self, grammar: str) -> Compiled:
        """Compiled, or on the way to it."""
        self.warm()
        found = self._compiled.get(grammar)
        if found is None:
            found = Future()
            self._work.put(_settling(found, lambda: self._form(grammar)))
            self.keep(grammar, found)
        self._compiled.move_to_end(grammar)
        return found

    def keep(self, grammar: str, compiled: Compiled) -> None:
        """Among the latest; of others, those that are done may go."""
        self._compiled[grammar] = compiled
        self._compiled.move_to_end(grammar)
        spare = len(self._compiled) - KEPT
        for other in [name for name, one in self._compiled.items() if one.done()][: max(spare, 0)]:
            del self._compiled[other]

    def matcher(self, grammar: str, generated: Sequence[int] = ()) -> Matcher:
        """For an answer of which these tokens are there already; InvalidField for what cannot be followed."""
        compiled = self.compile(grammar)
        if (failed := compiled.exception()) is not None:  # whatever it is, the engine goes on
            raise InvalidField("grammar", f"cannot be followed: {failed}") from failed
        form = compiled.result()
        if form.inner.is_error():
            raise InvalidField("grammar", form.inner.get_error())
        own = replace(form, inner=form.inner.deep_copy())
        matcher = Matcher(grammar, own, lambda: self._anew(grammar, form))
        for token in generated:
            if not matcher.take(token):
                raise InvalidField("generated", f"does not follow the grammar: {matcher.wrong}")
        return matcher

    def masks(self, matchers: Sequence[Matcher]) -> npt.NDArray[np.uint8]:
        """What may come next of each: a row of bits."""
        made = np.empty((len(matchers), self.mask_bytes), dtype=np.uint8)
        for matcher, mask in zip(matchers, made, strict=True):
            matcher.fill(mask)
        return made

    def begin(self, matchers: Sequence[Matcher]) -> None:
        """Have their masks computed beside what follows."""
        if self._lanes is None:
            self._lanes = Lanes(self.fresh, self.mask_bytes, self._count)
        for number, share in self._lanes.begin([matcher.lend() for matcher in matchers]):
            self._making[number] = [matchers[at] for at in share]

    @property
    def making(self) -> bool:
        """Whether masks are being computed, or are to be collected."""
        return bool(self._making)

    def collect(self, within_s: float = 0.0) -> None:
        """Take in the masks that are there, after waiting up to `within_s` for the first."""
        while self._making and self._lanes is not None:
            try:
                done = self._lanes.done.get(timeout=within_s) if within_s else self._lanes.done.get_nowait()
            except queue.Empty:
                return
            self._settle(self._lanes, *done)
            within_s = 0.0

    def _settle(self, lanes: Lanes, number: int, made: list[Made] | BaseException) -> None:
        lanes.ended(number)
        matchers = self._making.pop(number)
        if isinstance(made, BaseException):
            raise made
        for matcher, one in zip(matchers, made, strict=True):
            matcher.back(one)

    def fresh(self, grammar: str) -> LLMatcher:
        """Compiled here and now, and for the caller alone."""
        from llguidance import LLMatcher, LLParserLimits

        limits = LLParserLimits(
            initial_lexer_fuel=LEXER_FUEL, step_max_items=ITEMS, max_lexer_states=self._states,
            verbose_errors=False,
        )  # fmt: skip
        return LLMatcher(self._vocabulary.result(), grammar, log_level=0, limits=limits)

    def _form(self, grammar: str) -> Form:
        self._vocabulary.result()  # whoever waits for that has not compiled yet
        began = time.perf_counter()
        inner = self.fresh(grammar)
        compiling, first = time.perf_counter() - began, []
        for _ in range(3 if not inner.is_error() else 0):  # the first learns what the lexer finds once
            answer, mask = inner.deep_copy(), np.empty(self.mask_bytes, dtype=np.uint8)
            began = time.perf_counter()
            answer.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
            first.append(time.perf_counter() - began)
        return Form(inner, compiling, min(first, default=0.0))

    def _anew(self, grammar: str, form: Form) -> LLMatcher:
        """For one that failed. Who comes later shares the new lexer, not the one that is full."""
        made, kept = self.fresh(grammar), Compiled()
        kept.set_result(replace(form, inner=made.deep_copy()))
        self.keep(grammar, kept)
        return made

    def _serve(self) -> None:
        while True:
            self._work.get()()

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
        self.special_token_ids = [id for id in sorted(tokenizer.special_ids) if id < vocab]
        self.eos = tuple([id for id in (*eos, *tokenizer.eos_ids) if id < vocab])
        if not self.eos:
            raise InvalidField("grammar", "cannot be followed: the model names no token that ends an answer")
        self.eos_token_id = self.eos[0]
        self.bos_token_id = tokenizer.bos_id
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special=False)


def _settling(future: Future[Any], work: Callable[[], Any]) -> Callable[[], None]:
    def settle() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    return settle
