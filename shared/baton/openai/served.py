"""The model that a service answers for: its names, limits, tokenizer and templates.

Built once while a service starts; what reads requests gets it as an argument. `model_list` is the body
of GET /v1/models, `model_told` that of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from baton.core.errors import InvalidField, Misconfigured, PromptTooLong, UnknownModel
from baton.openai.calls import Style, style_of
from baton.openai.reasoning import CLOSE as THOUGHT_END
from baton.openai.reasoning import OPEN as THOUGHT
from baton.openai.reasoning import Reasoning, reasoning_of
from baton.openai.sampling import SamplingDefaults
from baton.tokens.chat import ChatTemplates
from baton.tokens.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    names: tuple[str, ...]
    """What clients may call it; answers carry the name that was asked for, or the first."""
    tokenizer: Tokenizer
    templates: ChatTemplates
    max_length: int
    """Tokens of prompt and output together."""
    vocabulary: int
    """Token ids that the model takes; may exceed the tokenizer's."""
    defaults: SamplingDefaults = field(default_factory=SamplingDefaults)
    created: int = 0
    """Unix time in seconds when the service started."""

    def __post_init__(self) -> None:
        if not self.names:
            raise Misconfigured("a served model needs a name")

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        names: Sequence[str],
        max_length: int,
        vocabulary: int,
        created: int = 0,
        use_generation_config: bool = True,
    ) -> ServedModel:
        """From the model's directory or hub id."""
        tokenizer = Tokenizer.load(source)
        generation = tokenizer.generation if use_generation_config else {}
        return cls(
            names=tuple(names),
            tokenizer=tokenizer,
            templates=ChatTemplates(tokenizer.templates, tokenizer.special_tokens),
            max_length=max_length,
            vocabulary=vocabulary,
            defaults=SamplingDefaults.of(generation),
            created=created,
        )

    @property
    def thinks(self) -> bool:
        """Its templates know what a thought ends with."""
        return self.templates.mentions(THOUGHT_END)

    @property
    def calls(self) -> Style | None:
        """How its templates say that a tool is called, if they do."""
        return style_of(self.templates.mentions)

    @property
    def one_call(self) -> bool:
        """Its templates take no answers back that call twice, as Llama's say."""
        return self.templates.mentions("only supports single tool-calls")

    def after_thought(self, grammar: str, field: str, prompt: str, continued: object) -> str:
        """For the answer to a prompt: of a model that thinks, what comes after the thought has that form.
        Nothing comes before it where the template has closed the thought."""
        if not grammar or not self.thinks or prompt.rstrip().endswith(THOUGHT_END):
            return grammar
        from baton.grammar import forms

        begun = reasoning_of(prompt, continued) is Reasoning.BEGUN
        special = self.tokenizer.token_id(THOUGHT_END) in self.tokenizer.special_ids
        try:
            return forms.after_thought(grammar, THOUGHT, THOUGHT_END, begun=begun, special=special)
        except forms.NoGrammar as error:
            raise InvalidField(field, str(error)) from error

    def name(self, asked: str | None) -> str:
        """The name that answers carry; an error for a model that is not served."""
        if not asked:
            return self.names[0]
        if asked not in self.names:
            raise UnknownModel("model", f"{asked!r} does not exist here; served: {', '.join(self.names)}")
        return asked

    def check_length(self, prompt: int, output: int | None, path: str) -> None:
        """`output` None is as many tokens as are left, of which there must be one."""
        if prompt + (output or 1) > self.max_length:
            wanted = f"{prompt} for the prompt and {output or 'at least 1'} for the output"
            raise PromptTooLong(path, f"the model's length is {self.max_length} tokens, asked are {wanted}")


def model_list(model: ServedModel) -> bytes:
    return msgspec.json.encode({"object": "list", "data": [_told(model, name) for name in model.names]})


def model_told(model: ServedModel, name: str) -> bytes:
    if not name:
        raise UnknownModel("model", f"must be named; served: {', '.join(model.names)}")
    return msgspec.json.encode(_told(model, model.name(name)))


def _told(model: ServedModel, name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": model.created,
        "owned_by": "baton",
        "root": model.names[0],
        "parent": None,
        "max_model_len": model.max_length,
    }
