"""Renders a conversation to a prompt with the model's own chat template.

Routers call it for every chat request, and again for /tokenize. Templates come with the model and run
in jinja2's sandbox with the names that `transformers` gives them, so the same messages give the same
prompt. Clients supply data, never templates. Whatever a template does with a client's messages is
answered as an `InvalidField`; it must never take the service down.

Compiled once and without state between renderings, so threads may share one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from baton.core.errors import InvalidField, Misconfigured

Message = Mapping[str, Any]

DEFAULT = "default"
WITH_TOOLS = "tool_use"

_GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt"})
# Reasoning goes by three names; templates read the first, and gpt-oss's the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")
# Ends the message that is to be continued. The space shows whether the template trims what it prints.
_MARK = "\ue0ffcontinue\ue0fe"
_MARK_AND_SPACE = _MARK + " "


class ChatTemplates:
    """A model's chat templates, by name; most have one, some a second for requests with tools."""

    def __init__(
        self,
        templates: Mapping[str, str],
        special_tokens: Mapping[str, str] | None = None,
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """`now` is what a template that writes today's date is told."""
        environment = _environment(now)
        self._special_tokens = dict(special_tokens or {})
        self._texts = dict(templates)
        self._compiled = {name: _compile(environment, name, text) for name, text in templates.items()}
        self._reads_parts = {
            name: _iterates_content(environment.parse(text)) for name, text in templates.items()
        }

    def __bool__(self) -> bool:
        return bool(self._compiled)

    def __repr__(self) -> str:
        return f"ChatTemplates({', '.join(self._compiled) or 'none'})"

    def reads_parts(self, tools: bool = False) -> bool:
        """Does the template take a content that is a list of parts? Others need it as one string."""
        name = self._choose(tools)
        return name in self._reads_parts and self._reads_parts[name]

    def mentions(self, word: str) -> bool:
        """Does any template know this word, a role for instance? What none knows, they drop in silence."""
        return any(word in text for text in self._texts.values())

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt's text. `variables` are more names for the template (`chat_template_kwargs`)."""
        template = self._compiled.get(self._choose(tools is not None))
        if template is None:
            raise InvalidField("messages", "this model has no chat template; use /v1/completions")
        _check(messages, variables or {}, add_generation_prompt, continue_final_message)
        prepared = [_prepare(message) for message in messages]
        if continue_final_message:
            prepared[-1], continued = _marked(prepared[-1])
        for message in prepared:
            if "tool_calls" in message:
                message.setdefault("content", "")  # calls alone; many templates print what everybody else has
        try:
            text = template.render(
                **{**self._special_tokens, **(variables or {})},
                messages=prepared,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
            )
        # A template is a program over the client's data: it can raise anything.
        except Exception as error:
            raise InvalidField("messages", f"the chat template does not take them: {error}") from error
        return _cut_at_mark(text, continued) if continue_final_message else text

    def _choose(self, tools: bool) -> str:
        return WITH_TOOLS if tools and WITH_TOOLS in self._compiled else DEFAULT


def _environment(now: Callable[[], datetime]) -> ImmutableSandboxedEnvironment:
    def raise_exception(message: str) -> NoReturn:
        raise jinja2.TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # jinja2's own escapes <, > and & for HTML, which models were not trained on.
        return json.dumps(
            value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
        )

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda format: now().strftime(format)
    return environment


class _Generation(Extension):
    """`{% generation %}` marks, for training, what the assistant wrote; here it prints its body."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(line)


def _compile(environment: ImmutableSandboxedEnvironment, name: str, text: str) -> jinja2.Template:
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise Misconfigured(f"chat template {name!r}, line {error.lineno}: {error.message}") from error


def _check(
    messages: Sequence[Message], variables: Mapping[str, Any], add_generation_prompt: bool, continues: bool
) -> None:
    if not messages:
        raise InvalidField("messages", "need at least one message")
    if continues and add_generation_prompt:
        raise InvalidField(
            "continue_final_message", "cannot go with add_generation_prompt: one continues, one begins anew"
        )
    if taken := _GIVEN & variables.keys():
        raise InvalidField("chat_template_kwargs", f"{', '.join(sorted(taken))} has a field of its own")


def _prepare(message: Message) -> dict[str, Any]:
    """Absent and null mean the same to a client, but not to every template."""
    prepared = {key: value for key, value in message.items() if value is not None}
    reasoning = next((prepared[key] for key in _REASONING if key in prepared), None)
    if reasoning is not None:
        prepared.setdefault("thinking", reasoning)
        prepared["reasoning_content"] = reasoning
    return prepared


def _marked(message: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The message with the mark after its text, and that text."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": content + _MARK_AND_SPACE}, content
    parts = list(content) if isinstance(content, Sequence) else []
    for place in reversed(range(len(parts))):
        part = parts[place]
        if isinstance(part, Mapping) and isinstance(text := part.get("text"), str):
            parts[place] = {**part, "text": text + _MARK_AND_SPACE}
            return {**message, "content": parts}, text
    raise InvalidField("continue_final_message", "the final message has no text to continue")


def _cut_at_mark(text: str, continued: str) -> str:
    at = text.rfind(_MARK)
    if at < 0 or continued.strip() not in text:
        raise InvalidField("continue_final_message", "the chat template changes the final message's text")
    kept = text[:at]
    return kept if text.startswith(_MARK_AND_SPACE, at) else kept.rstrip()


def _iterates_content(template: nodes.Template) -> bool:
    """Does a loop of the template go over a message's content, or over a name that stands for it?"""
    # Macros are handed the content under this name by all that have one.
    names = {"content"}
    for assignment in template.find_all(nodes.Assign):
        if isinstance(assignment.target, nodes.Name) and _is_content(assignment.node, names):
            names.add(assignment.target.name)
    return any(_is_content(loop.iter, names) for loop in template.find_all(nodes.For))


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    match node:
        case nodes.Getattr(attr="content") | nodes.Getitem(arg=nodes.Const(value="content")):
            return True
        case nodes.Name(name=name):
            return name in names
        case nodes.Filter(node=nodes.Node() as inner):
            return _is_content(inner, names)
        case nodes.CondExpr(expr1=then, expr2=otherwise):
            return _is_content(then, names) or (otherwise is not None and _is_content(otherwise, names))
    return False
