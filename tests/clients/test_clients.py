"""Clients that others wrote, against a whole Baton: each completes a streamed chat, told only the address.

LiteLLM holds OpenAI's client to a release of its own choice, so the clients live in an environment beside
the project's (`make clients` makes it; BATON_CLIENTS names another's Python).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.running import Running

PYTHON = Path(os.environ.get("BATON_CLIENTS") or Path(sys.prefix) / "clients" / "bin" / "python")

QUESTION = "What is a prefill pod?"

OPENAI = """
from openai import OpenAI
client = OpenAI(base_url=url, api_key="none")
asked = [{"role": "user", "content": question}]
stream = client.chat.completions.create(model="tiny", messages=asked, temperature=0, stream=True)
pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
"""

LANGCHAIN = """
from langchain_openai import ChatOpenAI
chat = ChatOpenAI(base_url=url, api_key="none", model="tiny", temperature=0)
pieces = [chunk.content for chunk in chat.stream(question)]
"""

LITELLM = """
import litellm
asked = [{"role": "user", "content": question}]
stream = litellm.completion(
    model="openai/tiny", api_base=url, api_key="none", messages=asked, temperature=0, stream=True
)
pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
"""

QUIET = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LANGSMITH_TRACING": "false", "DO_NOT_TRACK": "1"}
"""None of them is to ask anything of anybody else."""


@pytest.mark.parametrize(
    ("library", "script"),
    [("openai", OPENAI), ("langchain_openai", LANGCHAIN), ("litellm", LITELLM)],
    ids=["openai", "langchain", "litellm"],
)
def test_a_streamed_chat(running: Running, library: str, script: str) -> None:
    if not PYTHON.is_file():
        pytest.skip(f"no clients here: {PYTHON} is missing; `make clients` installs them")
    told = f"url, question = {f'{running.url}/v1'!r}, {QUESTION!r}\n{script}\n"
    told += "import json; print(json.dumps(pieces))"
    # Tokens that wait for a busy machine come together: one of a few answers comes in pieces.
    found = [_pieces(library, told)]
    while len(found[-1]) <= 3 and len(found) < 5:
        found.append(_pieces(library, told))
    assert len(found[-1]) > 3, "it came in pieces"
    assert all("reads the prompt" in "".join(pieces) for pieces in found)


def _pieces(library: str, script: str) -> list[str]:
    environ = {**os.environ, **QUIET}
    environ.pop("PYTHONPATH", None)
    done = subprocess.run(
        [str(PYTHON), "-c", script], capture_output=True, text=True, check=False, env=environ, timeout=100
    )
    assert done.returncode == 0, f"{library}: {done.stderr[-2000:]}"
    return [piece for piece in json.loads(done.stdout.splitlines()[-1]) if piece]
