"""The tiny model's tokenizer: byte-level BPE trained on the corpus, and its Hugging Face files.

Every byte is a token of its own, so any text can be written. No normaliser: what goes in comes out.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from baton.tiny.corpus import Document, documents

SIZE = 1536
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL = (END_OF_TEXT, START, END)

# Contractions, words with their leading space, single digits, punctuation, line breaks, spaces.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CHAT_TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)


def build_tokenizer(seed: int, sample: int = 20_000) -> Tokenizer:
    """Trains the merges on the first `sample` documents of the corpus, drills of random words left out."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = (as_text(document) for document in islice(documents(seed), sample) if not document.given)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def as_text(document: Document) -> str:
    return document.text or "\n".join(f"{message.role}\n{message.content}" for message in document.messages)


def segments(document: Document) -> list[tuple[str, bool]]:
    """The document as the chat template writes it, cut so that what the model itself must write is marked."""
    if document.text:
        return [(document.given, False), (document.text + END_OF_TEXT, True)]
    parts: list[tuple[str, bool]] = []
    for message in document.messages:
        own = message.role == "assistant"
        parts += [(f"{START}{message.role}\n", False), (message.content + END, own), ("\n", False)]
    return [*parts, (END_OF_TEXT, False)]


def save_tokenizer(tokenizer: Tokenizer, folder: Path, longest: int) -> None:
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    config = {
        "add_bos_token": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": longest,
        "pad_token": END_OF_TEXT,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
