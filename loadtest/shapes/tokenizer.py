"""Makes of a shape a model that pods serve with random weights: its config, and a tokenizer of as many
byte-level tokens as it has, each with a text of its own.

    python loadtest/shapes/tokenizer.py loadtest/shapes/qwen3-8b OUT

Random weights draw from the whole vocabulary; with this every token that is generated has text, so
every one of them is streamed, as with the model's own tokenizer.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def words(count: int) -> list[str]:
    """Distinct words of letters, each after a space (Ġ in byte-level alphabets)."""
    made = []
    for number in range(count):
        word, rest = "", number
        for _ in range(4):
            rest, letter = divmod(rest, 26)
            word += LETTERS[letter]
        made.append("Ġ" + word)
    return made


def main(shape: Path, out: Path) -> None:
    config = json.loads((shape / "config.json").read_text())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [*alphabet, *words(config["vocab_size"] - len(alphabet))]
    tokenizer = Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(json.dumps(config, indent=2))
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
