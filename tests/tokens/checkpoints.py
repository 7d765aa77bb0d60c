"""Small checkpoints with real tokenizers, trained here: one for each kind that models come with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tokenizers import Tokenizer as Backend

CORPUS = [
    "The quick brown fox jumps. It's 12,345 o'clock; don't they'll we've\n\n\n  x = [1, 2]\t\r\n",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë au delà des îles",
    "天地玄黄 宇宙洪荒。日月盈昃 辰宿列张。 いろはにほへと ちりぬるを 🙂🙃 👩‍👩‍👧‍👦 e\u0301 n\u0303",
    "Съешь же ещё этих мягких французских булок, да выпей чаю   مرحبا بالعالم  नमस्ते दुनिया",
] * 4

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN_SPLIT.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)


def special(*contents: str) -> list[AddedToken]:
    return [AddedToken(content, special=True, normalized=False) for content in contents]


def qwen() -> tuple[Backend, dict[str, Any]]:
    """Byte-level BPE without a beginning token, plus ordinary added tokens."""
    backend = _byte_level(QWEN_SPLIT, normalizers.NFC())
    backend.add_special_tokens(special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    backend.add_tokens([AddedToken("<think>", normalized=False), AddedToken("<tool call>", normalized=False)])
    return backend, {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
    }


def llama3() -> tuple[Backend, dict[str, Any]]:
    """Byte-level BPE whose post-processor begins every text with a token."""
    backend = _byte_level(LLAMA3_SPLIT, None)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend.add_special_tokens(special(*names))
    bos = backend.token_to_id("<|begin_of_text|>")
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]
            ),
        ]
    )
    return backend, {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
    }


def llama2() -> tuple[Backend, dict[str, Any]]:
    """BPE over metaspace with bytes as the way out, as converted from sentencepiece."""
    backend = Backend(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
        max_token_length=8,
    )
    backend.train_from_iterator([" ".join(text.split()).replace(" ", "▁") for text in CORPUS[:2]], trainer)
    saved = json.loads(backend.to_str())
    # Training could name the byte tokens only as special ones; in a real file they are plain vocabulary.
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["id"] < 3]
    backend = Backend.from_str(json.dumps(saved))
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    backend.add_tokens([AddedToken("<|user|>", special=True, normalized=False)])
    return backend, {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False},
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
    }


def unigram() -> tuple[Backend, dict[str, Any]]:
    """A decoder of no family of its own (T5's)."""
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend, {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "unk_token": "<unk>"}


KINDS = {"qwen": qwen, "llama3": llama3, "llama2": llama2, "unigram": unigram}


def write(directory: Path, kind: str, **files: Mapping[str, Any] | str) -> Path:
    """A checkpoint's tokenizer files. `files` are more of them, by stem; a string is a .jinja file."""
    backend, config = KINDS[kind]()
    directory.mkdir(parents=True, exist_ok=True)
    backend.save(str(directory / "tokenizer.json"))
    contents: dict[str, Mapping[str, Any] | str] = {"tokenizer_config": config, **files}
    for stem, content in contents.items():
        if isinstance(content, str):
            (directory / f"{stem}.jinja").write_text(content, encoding="utf-8")
        else:
            (directory / f"{stem}.json").write_text(json.dumps(content), encoding="utf-8")
    return directory


def _byte_level(split: str, normalizer: Any) -> Backend:
    backend = Backend(models.BPE())
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return backend
