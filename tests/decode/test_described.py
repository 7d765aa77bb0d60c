"""What a running pod answers is what its /openapi.json says, timelines included."""

from __future__ import annotations

import json
from typing import Any

import httpx
import jsonschema
import pytest

from baton.openai.description import EVENTS, JSON, PATH

ASKS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": [{"role": "user", "content": "fox"}], "max_tokens": 4, "n": 2, "logprobs": True,
        "top_logprobs": 2,
    },
    "/v1/completions": {"prompt": ["fox", "cat"], "max_tokens": 4, "logprobs": 2, "echo": True},
    "/generate": {"text": ["fox", "cat"], "return_logprob": True, "sampling_params": {"max_new_tokens": 4}},
}  # fmt: skip


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("path", ASKS)
def test_answers_with_a_timeline_are_as_described(path: str, stream: bool, http: httpx.Client) -> None:
    told = http.get(PATH).json()
    content = told["paths"][path]["post"]["responses"]["200"]["content"]
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if path != "/generate" else {}
    body = {**ASKS[path], "stream": stream, **(more if stream else {})}
    answer = http.post(path, json=body, headers={"x-baton-timeline": "true"})
    assert answer.status_code == 200, answer.text

    def check(made: Any, schema: Any) -> None:
        jsonschema.validate(made, {**schema, "components": told["components"]})

    if not stream:
        check(answer.json(), content[JSON]["schema"])
        return
    *events, done = [line[6:] for line in answer.text.split("\n") if line.startswith("data: ")]
    assert done == "[DONE]" and len(events) > 2
    described = content[EVENTS]["schema"]["properties"]["data"]["anyOf"][1]["contentSchema"]
    for event in events:
        check(json.loads(event), described)
    last = json.loads(events[-1])
    check(last["baton"], {"$ref": "#/components/schemas/Timeline"})
    assert [one for one in events if '"baton"' in one] == events[-1:]
