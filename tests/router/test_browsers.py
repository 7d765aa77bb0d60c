"""Pages of other sites, in a browser: who may ask, and what it may read."""

from __future__ import annotations

import httpx
import pytest
from tests.router.stage import Router, Stage

HOME, OTHER = "https://home.example", "https://other.example"


def test_only_the_sites_that_were_named_may_ask(stage: Stage) -> None:
    router = Router(stage.redis.url, "--cors.origins", HOME)
    try:
        with httpx.Client(base_url=router.url, timeout=30) as http:
            ask = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
            allowed = http.options("/v1/chat/completions", headers={"origin": HOME, **ask})
            assert allowed.status_code == 200
            assert allowed.headers["access-control-allow-origin"] == HOME
            assert "authorization" in allowed.headers["access-control-allow-headers"]
            refused = http.options("/v1/chat/completions", headers={"origin": OTHER, **ask})
            assert refused.status_code == 400 and "access-control-allow-origin" not in refused.headers
            answer = http.post("/v1/chat/completions", json={"messages": []}, headers={"origin": HOME})
            assert answer.headers["access-control-allow-origin"] == HOME
            shown = answer.headers["access-control-expose-headers"].split(", ")
            assert "x-request-id" in shown and answer.headers["x-request-id"]
    finally:
        router.close()


@pytest.mark.parametrize("origin", [HOME, "null"])
def test_nobody_may_where_no_site_was_named(router: Router, origin: str) -> None:
    answer = httpx.get(f"{router.url}/livez", headers={"origin": origin}, timeout=30)
    assert "access-control-allow-origin" not in answer.headers
