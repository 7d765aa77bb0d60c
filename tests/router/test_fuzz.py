"""Bodies that nobody would send: whatever comes, the answer is a client's mistake or an answer."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from baton.openai.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    GenerateRequest,
    TokenizeRequest,
)
from baton.testing.simulated import SimulatedWorker

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
