"""Bodies that nobody would send: whatever comes, the answer is a client's mistake or an answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.running import Running

from baton.http.post import DEADLINE_HEADER
from baton.openai import description
from baton.openai.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerateRequest,
    TokenizeRequest,
)
from baton.testing.simulated import SimulatedWorker

SECONDS = int(os.environ.get("FUZZ_SECONDS", "3600"))
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["user", "assistant", "system", "tool", "text", "tiny", "auto", "none", 0, 1, -1])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "name", "function", "0", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
GOOD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2},
    "/v1/completions": {"prompt": "hi", "max_tokens": 2},
    "/generate": {"text": "hi", "sampling_params": {"max_new_tokens": 2}},
    "/tokenize": {"prompt": "hi"},
    "/detokenize": {"tokens": [1]},
}
FIELDS: dict[str, tuple[str, ...]] = {
    "/v1/chat/completions": ChatRequest.__struct_fields__,
    "/v1/completions": CompletionRequest.__struct_fields__,
    "/generate": GenerateRequest.__struct_fields__,
    "/tokenize": TokenizeRequest.__struct_fields__,
    "/detokenize": DetokenizeRequest.__struct_fields__,
}


@pytest.mark.parametrize("path", GOOD)
def test_no_body_is_our_mistake(path: str, http: httpx.Client, workers: list[SimulatedWorker]) -> None:
    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(st.dictionaries(st.sampled_from(FIELDS[path]), VALUES, max_size=3), st.booleans())
    def ask(changes: dict[str, Any], alone: bool) -> None:
        body = changes if alone else {**GOOD[path], **changes}
        answer = http.post(path, json=body)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, (body, answer.text)
        if answer.status_code != 200:
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}

    ask()


@pytest.mark.parametrize("path", description.ENDPOINTS)
def test_what_is_described_is_served(path: str, http: httpx.Client, workers: list[SimulatedWorker]) -> None:
    told = http.get(description.PATH).json()
    ((method, operation),) = told["paths"][path].items()
    at = path.format(model="tiny")
    good = http.request(method, at, json=GOOD[path]) if method == "post" else http.get(at)
    assert good.status_code == 200
    for answer in (good, http.request("PUT", path)):
        schema = operation["responses"][str(answer.status_code)]["content"]["application/json"]["schema"]
        jsonschema.validate(answer.json(), {**schema, "components": told["components"]})


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 600)
def test_nothing_that_the_description_allows_or_forbids_is_our_mistake(running: Running) -> None:
    """By default for an hour: every answer is one that is described, in status (never 500) and shape."""
    program = Path(sys.executable).with_name("schemathesis")
    if not program.exists():
        pytest.skip("needs schemathesis: pip install 'baton[fuzz]'")
    where = f"{running.url}{description.PATH}"
    checks = "status_code_conformance,content_type_conformance,response_schema_conformance"
    ended = subprocess.run(
        [
            program, "run", where, "--max-time", str(SECONDS), "--checks", checks,
            "--phases", "examples,coverage,fuzzing", "--workers", "2", "--continue-on-failure",
            "--header", f"{DEADLINE_HEADER}: 5000", "--request-timeout", "30", "--no-color",
            "--suppress-health-check", "all", "--warnings", "off",
        ],
        timeout=SECONDS + 300, capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(ended.stdout[-20000:])
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert httpx.get(f"{running.url}/readyz").status_code == 200, "and it goes on"
