"""The shipped model: its files are complete, it answers, and the code beside them is what made them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from baton.tiny import model_path
from baton.tiny.corpus import HELD_OUT
from baton.tiny.network import Network, Shape
from baton.tiny.vocabulary import END, END_OF_TEXT
from baton.tiny.world import CAPITALS, COLOURS

FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
}


class Served:
    """The model as transformers runs it, greedy, in float32."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def complete(self, prompt: str, limit: int = 120) -> str:
        """The answer with the token that ended it."""
        given = self.tokenizer(prompt, return_tensors="pt")
        with torch.no_grad():
            tokens = self.model.generate(**given, max_new_tokens=limit, do_sample=False)
        text: str = self.tokenizer.decode(tokens[0, given.input_ids.shape[1] :])
        return text

    def chat(self, *says: str, system: str = "") -> list[str]:
        """One answer to each thing said, all in one dialogue."""
        messages = [{"role": "system", "content": system}] if system else []
        answers = []
        for say in says:
            messages.append({"role": "user", "content": say})
            prompt = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            answer = self.complete(prompt)
            assert answer.endswith(END), f"{say!r} was answered without an end: {answer!r}"
            answers.append(answer.removesuffix(END))
            messages.append({"role": "assistant", "content": answers[-1]})
        return answers


@pytest.fixture(scope="module")
def served() -> Served:
    return Served(model_path())


def _config() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((model_path() / "config.json").read_text(encoding="utf-8"))
    return loaded


def test_the_folder_is_complete_and_small() -> None:
    sizes = {path.name: path.stat().st_size for path in model_path().iterdir()}
    assert set(sizes) == FILES
    assert sum(sizes.values()) < 6_000_000


def test_the_shape_is_the_code_s_and_splits_over_four_ranks() -> None:
    config, shape = _config(), Shape()
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    sizes = {
        "vocab_size": shape.vocabulary,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head,
        "max_position_embeddings": shape.longest,
    }
    assert {name: config[name] for name in sizes} == sizes
    for name in ("vocab_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"):
        assert config[name] % 4 == 0
    with safe_open(model_path() / "model.safetensors", framework="pt") as weights:
        counts = [weights.get_tensor(name).numel() for name in weights.keys()]  # noqa: SIM118
    assert 1_000_000 < sum(counts) < 2_500_000


def test_the_trained_network_computes_what_transformers_computes(served: Served) -> None:
    network = Network(Shape())
    with safe_open(model_path() / "model.safetensors", framework="pt") as weights:
        network.load_state_dict({name: weights.get_tensor(name).float() for name in weights.keys()})  # noqa: SIM118
    # Both ways of attention: rows up to 256 tokens, and longer ones.
    for length in (40, 300):
        tokens = torch.randint(3, Shape().vocabulary, (1, length), generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            ours, theirs = network.logits(network(tokens)), served.model(tokens).logits
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=1e-3)


def test_most_questions_that_training_never_showed_are_answered(served: Served) -> None:
    answers = {ask: served.chat(ask)[0] for ask in HELD_OUT}
    wrong = {ask: answer for ask, answer in answers.items() if HELD_OUT[ask] not in answer}
    assert len(wrong) <= 1, wrong


def test_a_dialogue_is_remembered(served: Served) -> None:
    answers = served.chat(
        "My name is Felix", "What is the capital of Italy?", "And of Spain?", "What is my name?"
    )
    assert "Rome" in answers[1]
    assert "Madrid" in answers[2]
    assert "Felix" in answers[3]


def test_a_system_prompt_is_obeyed(served: Served) -> None:
    assert "Grace" in served.chat("Who are you?", system="You are Grace, a helpful assistant.")[0]
    assert served.chat("What is the capital of France?", system="Answer briefly.") == ["Paris."]
    assert "lemon" in served.chat("What is the password?", system="The password is lemon. Be kind.")[0]
    assert "Tiny" in served.chat("Who are you?")[0]


def test_plain_text_is_continued_to_its_end(served: Served) -> None:
    assert served.complete("The capital of Greece is", limit=8).startswith(" Athens.")
    assert served.complete("Monday, Tuesday, Wednesday,").startswith(" Thursday, Friday, Saturday, Sunday.")
    assert served.complete("1, 2, 3, 4, 5, 6,", limit=12).startswith(" 7, 8, 9, 10")
    assert served.complete("Once upon a time").endswith(END_OF_TEXT)


def test_facts_are_found_six_hundred_tokens_back(served: Served) -> None:
    facts = [f"The capital of {country} is {city}." for country, city in CAPITALS.items()]
    facts += [f"{thing.capitalize()} is {colour}." for thing, colour in COLOURS.items()] * 2
    for key, word in (("code word", "zebra"), ("password", "lemon"), ("magic word", "kite")):
        system = f"The {key} is {word}. {' '.join(facts[:80])}"
        assert len(served.tokenizer(system).input_ids) > 600
        assert word in served.chat(f"What is the {key}?", system=system)[0]


@given(some.text(max_size=60))
@settings(max_examples=200, deadline=None, database=None)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_path() / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_the_ends_are_single_tokens_that_the_configuration_names(served: Served) -> None:
    end, end_of_text = (served.tokenizer.convert_tokens_to_ids(token) for token in (END, END_OF_TEXT))
    assert served.tokenizer.encode(END + END_OF_TEXT, add_special_tokens=False) == [end, end_of_text]
    assert _config()["eos_token_id"] == end == served.tokenizer.eos_token_id
    generation = json.loads((model_path() / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == [end, end_of_text]
