"""The form that a request wants its answer in, as a grammar: by OpenAI's, vLLM's or SGLang's names for it.

One of them at most. What is wrong with it is said of the field that it came in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from baton.core.errors import InvalidField, UnsupportedField
from baton.openai import calls
from baton.openai.requests import (
    ChatRequest,
    GenerateSampling,
    ResponseFormat,
    SampledBody,
    StructuredOutputs,
)

if TYPE_CHECKING:  # which samples by what is read here
    from baton.openai.served import ServedModel

STRUCTURED = {"json": "json_schema", "regex": "regex", "choice": "choice", "grammar": "ebnf"}
"""vLLM's names, and the functions of `baton.grammar.forms`; with "guided_" before them they are older."""

Wanted = tuple[str, str, Any]
"""Field, the name of a function of `baton.grammar.forms`, and what it is given."""

NOTHING = object()
"""Given to a function that takes none."""


class Form(NamedTuple):
    grammar: str = ""
    field: str = ""
    """What it came in."""


def form_of(request: SampledBody) -> Form:
    """Empty for an answer of any form."""
    return _one([*_response_format(request.response_format), *_others(request)])


def form_of_generate(given: GenerateSampling, path: str) -> Form:
    return _one([*_named(given, "json_schema", "regex", "ebnf", path=f"{path}.")])


def forced_calls(request: ChatRequest, model: ServedModel) -> Form:
    """Where the client wants a tool called; empty where the model may choose."""
    choice = request.tool_choice
    if choice in (None, "auto", "none"):
        return Form()
    tools = {tool["function"]["name"]: tool["function"].get("parameters") for tool in request.tools or ()}
    if not tools:
        raise InvalidField("tools", "need one or more, since tool_choice asks for a call")
    if len(tools) < len(request.tools or ()):
        raise InvalidField("tools", "need names of their own, since tool_choice asks for a call")
    if model.calls is None:
        raise UnsupportedField("tool_choice", "no call can be forced: the model's template tells of none")
    frame, tokens = calls.FRAMES[model.calls], model.tokenizer
    if frame.opens and tokens.token_id(frame.opens) in tokens.special_ids:
        raise UnsupportedField("tool_choice", f"no call can be forced: {frame.opens} is a token, and no text")
    several = choice == "required" and request.parallel_tool_calls is not False and not model.one_call
    if choice != "required":
        name = _chosen(choice)
        if name not in tools:
            raise InvalidField("tool_choice.function.name", f"{name!r} is none of tools")
        tools = {name: tools[name]}
    from baton.grammar import forms

    try:
        return Form(forms.calls(tools, frame, several=several), "tools")
    except forms.NoGrammar as error:
        raise InvalidField("tools", f"have parameters of which one {error}") from error


def _chosen(choice: Any) -> Any:
    match choice:
        case {"type": "function", "function": {"name": str() as name}}:
            return name
    raise InvalidField("tool_choice", "must be 'auto', 'none', 'required' or name a function of tools")


def _response_format(wanted: ResponseFormat | None) -> Iterator[Wanted]:
    match wanted:
        case None | ResponseFormat(type="text"):
            return
        case ResponseFormat(type="json_object"):
            yield "response_format", "json_object", NOTHING
        case ResponseFormat(type="json_schema", json_schema={"schema": schema}):
            yield "response_format.json_schema.schema", "json_schema", schema
        case ResponseFormat(type="json_schema"):
            raise InvalidField("response_format.json_schema", "needs an object with a name and a schema")
        case ResponseFormat(type=other):
            served = "'text', 'json_object' and 'json_schema' are"
            raise UnsupportedField("response_format.type", f"{other!r} is not served; {served}")


def _others(request: SampledBody) -> Iterator[Wanted]:
    yield from _named(request, "json_schema", "regex", "ebnf")
    yield from _vllm(request, "guided_")
    if request.structured_outputs is not None:
        yield from _structured(request.structured_outputs)


def _structured(wanted: StructuredOutputs) -> Iterator[Wanted]:
    wanted.check_served("structured_outputs.")
    if wanted.json_object:
        yield "structured_outputs.json_object", "json_object", NOTHING
    yield from _vllm(wanted, "", "structured_outputs.")


def _vllm(given: Any, prefix: str, path: str = "") -> Iterator[Wanted]:
    for name, form in STRUCTURED.items():
        if (value := getattr(given, prefix + name)) is not None:
            yield path + prefix + name, form, value


def _named(given: Any, *names: str, path: str = "") -> Iterator[Wanted]:
    for name in names:
        if (value := getattr(given, name)) is not None:
            yield path + name, name, value


def _one(wanted: list[Wanted]) -> Form:
    if not wanted:
        return Form()
    if len(wanted) > 1:
        raise InvalidField(wanted[1][0], f"the answer's form is said by {wanted[0][0]} already")
    from baton.grammar import forms  # a tenth of a second that most processes never need

    field, form, value = wanted[0]
    make: Callable[..., str] = getattr(forms, form)
    try:
        return Form(make() if value is NOTHING else make(value), field)
    except forms.NoGrammar as error:
        raise InvalidField(field, str(error)) from error
