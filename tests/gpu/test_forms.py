"""Answers in a given form on a GPU: those of the CPU's engine, with graphs and without, and among others."""

from __future__ import annotations

from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("llguidance")

from tests.engine.inline import Inline
from tests.engine.test_grammar import PROMPTS, asked, tokens

from baton.tiny import model_path

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def wanted() -> list[list[int]]:
    with Inline(model_path(), overlap=False) as served:
        found = served.generate(PROMPTS, [asked(i, temperature=0.0) for i in range(len(PROMPTS))])
    return [tokens(updates) for updates in found]


@pytest.mark.parametrize("settings", [{"graph_max_batch": 0}, {}, {"mixed": True, "policy": "lof"}], ids=str)
def test_each_is_what_it_is_on_a_cpu(settings: dict[str, Any], wanted: list[list[int]]) -> None:
    more = {"device": "cuda", "dtype": "float32", "attention": "triton", "max_running": 16}
    with Inline(model_path(), **more, **settings) as served:
        params = [asked(i, temperature=0.0) for i in range(len(PROMPTS))]
        assert [tokens(updates) for updates in served.generate(PROMPTS, params)] == wanted
