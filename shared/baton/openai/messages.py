"""Makes a client's messages what chat templates expect: text, and tool calls with parsed arguments.

Clients may send a content as parts, arguments as a JSON string, and the role "developer"; most
templates know only text, objects and "system". What no template here could show (an image) is refused,
because a template would drop it in silence. Everything else of a message passes as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from baton.core.errors import InvalidField, UnsupportedField

_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}


def template_messages(
    messages: Sequence[Mapping[str, Any]], *, parts: bool, developer: bool
) -> list[dict[str, Any]]:
    """`parts`: the template takes a content in parts. `developer`: it knows that role."""
    made = []
    for place, message in enumerate(messages):
        path = f"messages[{place}]"
        shown = dict(message)
        role = shown.get("role")
        if not isinstance(role, str) or not role:
            raise InvalidField(f"{path}.role", "need the role of the message's author")
        if role == "developer" and not developer:
            shown["role"] = "system"
        if "content" in shown:
            shown["content"] = _content(shown["content"], f"{path}.content", parts)
        if shown.get("tool_calls") is not None:
            shown["tool_calls"] = _tool_calls(shown["tool_calls"], f"{path}.tool_calls")
        made.append(shown)
    return made


def template_tools(
    tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None = None
) -> list[dict[str, Any]] | None:
    """The tools that the template shows; none where there are none or the client wants none called."""
    for place, tool in enumerate(tools or ()):
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidField(f"tools[{place}].function", "need a function with a name")
    return [dict(tool) for tool in tools] if tools and choice != "none" else None


def _content(content: Any, path: str, parts: bool) -> Any:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidField(path, "need text or a list of parts")
    texts = [_part_text(part, f"{path}[{place}]") for place, part in enumerate(content)]
    return [{"type": "text", "text": text} for text in texts] if parts else "\n".join(texts)


def _part_text(part: Any, path: str) -> str:
    if not isinstance(part, Mapping):
        raise InvalidField(path, "need an object with a type")
    kind = part.get("type")
    if kind not in _TEXT_PARTS:
        raise UnsupportedField(f"{path}.type", f"only text is served, not {kind!r}")
    text = part.get(_TEXT_PARTS[kind])
    if not isinstance(text, str):
        raise InvalidField(f"{path}.{_TEXT_PARTS[kind]}", "need text")
    return text


def _tool_calls(calls: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise InvalidField(path, "need a list of calls")
    made = []
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidField(f"{path}[{place}].function", "need a function with a name")
        arguments = _arguments(function.get("arguments"), f"{path}[{place}].function.arguments")
        made.append({**call, "function": {**function, "arguments": arguments}})
    return made


def _arguments(arguments: Any, path: str) -> Any:
    """Templates print arguments as JSON themselves, so a string would be quoted a second time."""
    if not isinstance(arguments, str):
        return {} if arguments is None else arguments
    try:
        return msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidField(path, f"is not JSON: {error}") from error
