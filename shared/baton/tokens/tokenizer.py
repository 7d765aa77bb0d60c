"""One model's tokenizer: text to token ids and back, and which ids are special.

Routers encode prompts with it, decode pods make their detokenizers from it. tokenizer.json is the
truth about splitting and merging; the other files only add special tokens, the ids that end a text
and the chat templates, read the way `transformers` reads them, which is not needed here.

Immutable after loading, so threads may share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from baton.core.errors import InvalidField, Misconfigured
from baton.tokens.files import TokenizerFiles, locate, read
from baton.tokens.pieces import Decoding, Family, Pieces, decoding_of

_EXTRA = ("extra_special_tokens", "additional_special_tokens")


class Tokenizer:
    def __init__(self, files: TokenizerFiles) -> None:
        try:
            self._backend = Backend.from_buffer(files.tokenizer)
            decoder = msgspec.json.decode(files.tokenizer, type=_Parts).decoder
        except Exception as error:  # the library raises bare Exception
            raise Misconfigured(f"tokenizer.json cannot be read: {error}") from error
        # Some files carry the limits of a training run; a served prompt is never cut or padded.
        self._backend.no_truncation()
        self._backend.no_padding()
        named, extra = _special_tokens(files)
        _add_special(self._backend, files, named, extra)

        self.special_tokens: Mapping[str, str] = named
        """Named special tokens ("bos_token" and so on), as chat templates see them."""
        self.templates: Mapping[str, str] = files.templates
        """Chat templates by name."""
        self.generation: Mapping[str, Any] = files.generation
        """generation_config.json, for the model's own sampling defaults."""
        self.special_ids = frozenset(
            token_id for token_id, token in self._backend.get_added_tokens_decoder().items() if token.special
        )
        self.size = 1 + max(self._backend.get_vocab(with_added_tokens=True).values(), default=-1)
        """One more than the highest id. A model's own vocabulary may be padded beyond it."""
        self.bos_id = self._id(named.get("bos_token"))
        self.eos_ids = self._find_eos(files)
        """Every id that ends a text, the usual one first."""
        self.decoding: Decoding = decoding_of(decoder)
        self._pieces = {
            skip: Pieces(self.decoding.family, self._token, self.special_ids if skip else frozenset())
            for skip in (False, True)
        }

    @classmethod
    def load(cls, source: str | Path, revision: str | None = None) -> Tokenizer:
        """From a directory, or from the hub by id."""
        return cls(read(locate(source, revision)))

    def __repr__(self) -> str:
        return f"Tokenizer({self.size} ids, {len(self.special_ids)} special, {self.decoding.family.value})"

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Releases the GIL; a prompt of a million characters takes a good part of a second."""
        return self.encode_all([text], add_special=add_special)[0]

    def encode_all(self, texts: Sequence[str], *, add_special: bool = True) -> list[list[int]]:
        try:
            # The batch call without offsets is the fastest one, even for a single text.
            encodings = self._backend.encode_batch_fast(texts, add_special_tokens=add_special)
        except TypeError as error:
            raise InvalidField("prompt", "is not text (or has halves of surrogate pairs)") from error
        return [encoding.ids for encoding in encodings]

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = True) -> str:
        return self._backend.decode(token_ids, skip_special_tokens=skip_special)

    def token(self, token_id: int) -> str:
        """The token as the vocabulary writes it (with "Ġ" or "▁"); empty for an unknown id."""
        return self._token(token_id) or ""

    def token_id(self, token: str) -> int | None:
        return self._id(token)

    def token_bytes(self, token_id: int) -> bytes:
        """What the token adds to a text, special or not; not always whole characters."""
        if self.decoding.family is Family.OTHER:
            return self.decode([token_id], skip_special=False).encode()
        piece = self._pieces[False][token_id]
        return piece.encode() if isinstance(piece, str) else piece

    def token_text(self, token_id: int) -> str:
        """`token_bytes` as text, with U+FFFD where it is no whole character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def pieces(self, skip_special: bool) -> Pieces:
        """The table that detokenizers read. Meaningless where the decoding's family is OTHER."""
        return self._pieces[skip_special]

    def check_ids(self, token_ids: Iterable[int], field: str, limit: int | None = None) -> None:
        """Refuse ids outside the vocabulary; `limit` is the model's own size where that is larger."""
        limit = self.size if limit is None else limit
        ids = token_ids if isinstance(token_ids, Sequence) else list(token_ids)
        if ids and not (min(ids) >= 0 and max(ids) < limit):
            wrong = next(token_id for token_id in ids if not 0 <= token_id < limit)
            raise InvalidField(field, f"token id {wrong} is out of the vocabulary (0 to {limit - 1})")

    def _token(self, token_id: int) -> str | None:
        return self._backend.id_to_token(token_id) if 0 <= token_id < 2**32 else None

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self._backend.token_to_id(token)

    def _find_eos(self, files: TokenizerFiles) -> tuple[int, ...]:
        """The generation configuration's ids (the model's, where there is none), then the tokenizer's
        own: checkpoints name the end of a turn in one and the end of a text in the other."""
        model = files.model.get("text_config") or files.model
        declared = files.generation.get("eos_token_id", model.get("eos_token_id"))
        ids = [declared] if isinstance(declared, int) else list(declared or ())
        own = self._id(self.special_tokens.get("eos_token"))
        return tuple(dict.fromkeys([*ids, *([] if own is None else [own])]))


class _Parts(msgspec.Struct):
    """What the library does not tell about a tokenizer.json."""

    decoder: Any = None


def _special_tokens(files: TokenizerFiles) -> tuple[dict[str, str], list[str]]:
    """Special tokens with a name, and those without. Older checkpoints keep them in a file of their
    own, which counts only where the configuration does not list its added tokens."""
    declared = dict(files.config)
    if "added_tokens_decoder" not in declared:
        declared.update(files.special_tokens)
    named = {
        key: text
        for key, value in declared.items()
        if key.endswith("_token") and (text := _content(value)) is not None
    }
    extra: Any = next((declared[key] for key in _EXTRA if declared.get(key)), [])
    if isinstance(extra, Mapping):
        named.update({key: text for key, value in extra.items() if (text := _content(value)) is not None})
        extra = []
    return named, [text for value in extra if (text := _content(value)) is not None]


def _content(value: Any) -> str | None:
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _add_special(
    backend: Backend, files: TokenizerFiles, named: Mapping[str, str], extra: Sequence[str]
) -> None:
    """Tell the backend of special tokens that tokenizer.json does not have, or has as ordinary ones.
    A token is made special by having a name only where one file lists both: the configuration's list
    of added tokens, or, without such a list, tokenizer.json's."""
    present = backend.get_added_tokens_decoder()
    listed = files.config.get("added_tokens_decoder")
    if listed is None:
        tokens = [token for _, token in sorted(present.items())]
    else:
        tokens = [AddedToken(**fields) for _, fields in sorted(listed.items(), key=lambda item: int(item[0]))]
    names = frozenset(named.values())
    for token in tokens:
        token.special = token.special or token.content in names
    known = {token.content for token in (*present.values(), *tokens)}
    for content in dict.fromkeys([*named.values(), *extra]):
        if content not in known:
            tokens.append(AddedToken(content, special=True))
    backend.add_tokens(tokens)
