"""What the process that compiles grammars says of one. That it is bounded is in test_checker."""

from __future__ import annotations

from baton.grammar import forms
from baton.grammar.child import wrong_with
from baton.grammar.matcher import Grammars
from baton.tiny import model_path
from baton.tokens.tokenizer import Tokenizer

REPEATED = forms.regex("(a{1000}){1000}")
"""Soon compiled, and then a tenth of a second for its first mask, more or less as the machine is."""


def grammars() -> Grammars:
    tokenizer = Tokenizer.load(model_path())
    return Grammars(lambda: tokenizer, tokenizer.size, tokenizer.eos_ids)


def test_a_first_mask_that_takes_too_long_is_wrong() -> None:
    made = grammars()
    made.warm()
    assert wrong_with(made, REPEATED, mask_s=60) == ""
    told = wrong_with(made, REPEATED, mask_s=0.002)
    assert told == "takes more than 0.002 s to say what its first token may be; make it smaller"
