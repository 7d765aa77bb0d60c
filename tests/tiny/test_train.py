"""The making of the tiny model: the same seed makes the same text and the same losses, and they fall."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from baton.tiny import model_path, record
from baton.tiny.corpus import HELD_NORMAL, HELD_OUT, documents, normal
from baton.tiny.network import Network, Shape
from baton.tiny.train import Recipe, batches, check, exact_answers, save, train_steps
from baton.tiny.vocabulary import build_tokenizer, segments

RECIPE = Recipe(
    steps=20,
    tokens=384,
    lengths=((96, 0.5), (288, 0.5)),
    warm_up=5,
    shape=Shape(hidden=64, inner=128, layers=2, heads=4, kv_heads=2, head=16),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(seed=1, sample=500)


def _digest(seed: int, count: int) -> str:
    return hashlib.sha256(repr(list(islice(documents(seed), count))).encode()).hexdigest()


def test_a_seed_fixes_the_text_in_any_process() -> None:
    assert _digest(1, 200) != _digest(2, 200)
    script = (
        "import hashlib, itertools; from baton.tiny.corpus import documents; "
        "print(hashlib.sha256(repr(list(itertools.islice(documents(1), 200))).encode()).hexdigest())"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environ
    )
    assert done.stdout.strip() == _digest(1, 200)


def test_the_text_never_holds_the_questions_held_out() -> None:
    asks = [
        normal(message.content)
        for document in islice(documents(1), 4000)
        for message in document.messages
        if message.role == "user"
    ]
    assert not [ask for ask in asks if ask.endswith(HELD_NORMAL)]
    assert len(HELD_OUT) == len(set(HELD_NORMAL)) >= 15


def test_the_template_writes_what_training_reads(tokenizer: Tokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    save(Network(RECIPE.shape), tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    document = next(document for document in documents(1) if len(document.messages) > 3)
    messages = [{"role": message.role, "content": message.content} for message in document.messages]
    trained = "".join(text for text, _ in segments(document))
    written = loaded.apply_chat_template(messages, tokenize=False)
    assert trained == written + "<|endoftext|>"
    pieces = [token for text, _ in segments(document) for token in tokenizer.encode(text).ids]
    assert pieces == loaded(trained).input_ids


def test_twenty_steps_reduce_the_loss_and_repeat_exactly(tokenizer: Tokenizer) -> None:
    def losses(recipe: Recipe) -> list[float]:
        torch.manual_seed(recipe.seed)
        network = Network(recipe.shape)
        found = list(train_steps(recipe, network, batches(recipe, tokenizer)))
        assert 0 <= exact_answers(network, tokenizer, 5) < 1
        return found

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        falling = losses(RECIPE)
        assert sum(falling[-5:]) < 0.85 * sum(falling[:5])
        assert losses(RECIPE) == falling
    finally:
        torch.set_num_threads(threads)


def test_the_script_makes_the_model_that_ships() -> None:
    """Text, tokenizer, settings, files and the first losses; the rest of the steps takes half an hour."""
    threads = torch.get_num_threads()
    try:
        assert check(model_path(), 3) == ""
    finally:
        torch.set_num_threads(threads)


def test_a_change_of_the_recipe_or_of_the_files_is_noticed(tmp_path: Path) -> None:
    folder = shutil.copytree(model_path(), tmp_path / "weights")
    made = record.read(folder)
    losses = made.first_losses[:4]
    assert record.complaint(made, losses) == ""
    assert "step 3 has loss" in record.complaint(made, [*losses[:2], losses[2] * 1.2, losses[3]])
    elsewhere = replace(made, made_with={})
    assert record.complaint(elsewhere, [*losses[:2], losses[2] * 1.01, losses[3]]) == ""
    assert "too far off" in record.complaint(elsewhere, [*losses[:2], losses[2] * 1.2, losses[3]])
    record.write(replace(made, steps=7), folder)
    assert "no longer the script's own" in check(folder, 1)
    with (folder / "config.json").open("a") as config:
        config.write("\n")
    assert "not those that the training wrote" in check(folder, 1)
