"""Reads a model's tokenizer files: a Hugging Face directory, or a hub id fetched once.

Called while a service starts, by `Tokenizer.load`. It parses and merges what lies there and decides
nothing: rules about special tokens and templates are in `tokenizer` and `chat`. It must never fetch
weights, and never touch the network for a directory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from baton.core.errors import Misconfigured, UnsupportedModel

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
GENERATION = "generation_config.json"
MODEL = "config.json"
TEMPLATE = "chat_template.jinja"
LEGACY_TEMPLATE = "chat_template.json"
MORE_TEMPLATES = "additional_chat_templates"

_WANTED = (
    TOKENIZER,
    CONFIG,
    SPECIAL_TOKENS,
    GENERATION,
    MODEL,
    TEMPLATE,
    LEGACY_TEMPLATE,
    f"{MORE_TEMPLATES}/*",
)


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What was found, parsed but not interpreted. An absent file is an empty mapping."""

    tokenizer: bytes
    """tokenizer.json as it is; the `tokenizers` library parses it."""
    config: Mapping[str, Any] = field(default_factory=dict)
    special_tokens: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)
    """Chat templates by name; the usual one is "default"."""


def locate(source: str | Path, revision: str | None = None) -> Path:
    """The directory that holds the files: `source` itself, or the snapshot of a hub id."""
    path = Path(source)
    if path.is_dir():
        return path
    if path.exists() or path.is_absolute() or str(source).startswith("."):
        raise Misconfigured(f"{source} is not a directory with a tokenizer")
    # Imported here: most deployments load from a volume, and this import costs more than the rest.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(_WANTED)))
    except Exception as error:
        raise Misconfigured(f"{source} is neither a directory nor a model the hub gives: {error}") from error


def read(directory: Path) -> TokenizerFiles:
    tokenizer = directory / TOKENIZER
    if not tokenizer.is_file():
        raise UnsupportedModel(f"{directory} has no {TOKENIZER}; convert the tokenizer to that format")
    config = _mapping(directory / CONFIG)
    return TokenizerFiles(
        tokenizer=tokenizer.read_bytes(),
        config=config,
        special_tokens=_mapping(directory / SPECIAL_TOKENS),
        generation=_mapping(directory / GENERATION),
        model=_mapping(directory / MODEL),
        templates=_templates(directory, config),
    )


def _mapping(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Misconfigured(f"{path}: {error}") from error


def _templates(directory: Path, config: Mapping[str, Any]) -> Mapping[str, str]:
    """Template files of their own replace whatever the configuration carries."""
    templates = {path.stem: _text(path) for path in sorted((directory / MORE_TEMPLATES).glob("*.jinja"))}
    if (directory / TEMPLATE).is_file():
        templates["default"] = _text(directory / TEMPLATE)
    if templates:
        return templates
    carried = _mapping(directory / LEGACY_TEMPLATE).get("chat_template") or config.get("chat_template")
    if carried is None:
        return {}
    if isinstance(carried, str):
        return {"default": carried}
    try:
        return {str(named["name"]): str(named["template"]) for named in carried}
    except (KeyError, TypeError) as error:
        raise Misconfigured(
            f"{directory / CONFIG}: chat_template is neither text nor named templates"
        ) from error


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")
