from __future__ import annotations

from pathlib import Path

import pytest
from tests.tokens import checkpoints, templates

from baton.openai import ServedModel


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """A Qwen-like model that is served under two names."""
    directory = checkpoints.write(
        tmp_path_factory.mktemp("model"),
        "qwen",
        chat_template=templates.QWEN3,
        generation_config={"temperature": 0.6, "top_k": 20, "top_p": 0.95, "eos_token_id": [502, 500]},
    )
    return served(directory)


@pytest.fixture(scope="session")
def llama2(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """One with a beginning token, metaspace, and a template that takes a content in parts."""
    directory = tmp_path_factory.mktemp("llama2")
    return served(checkpoints.write(directory, "llama2", chat_template=templates.PARTS))


def served(directory: Path) -> ServedModel:
    return ServedModel.load(
        directory, names=["big", "big-latest"], max_length=200, vocabulary=512, created=1_700_000_000
    )
