"""What a router with keys tells to whom: pods, placements and the page's feed are an operator's to see."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.router.stage import Router, Stage
from tests.spawned import eventually

from baton.cli.fleet.read import look
from baton.core.errors import Forbidden, Unauthenticated

USER, OPERATOR = "sk-alice-0123", "sk-ops-0123456"
GUARDED = ("/debug/fleet", "/debug/placements", "/ui/feed")


@pytest.fixture(scope="module")
def guarded(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    keys: Path = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"alice:{USER}\nops:{OPERATOR}::::operator\n")
    router = Router(stage.redis.url, "--keys.file", str(keys))
    worker = stage.worker("w1")
    eventually(router.ready)
    yield router
    stage.leave(worker)
    router.close()


def status(router: Router, path: str, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    with httpx.stream("GET", f"{router.url}{path}", headers=headers, verify=False) as answer:
        return answer.status_code


@pytest.mark.parametrize("path", GUARDED)
def test_only_operators_see_what_is_done_for_everybody(guarded: Router, path: str) -> None:
    assert [status(guarded, path, key) for key in ("", "sk-nobody-1", USER, OPERATOR)] == [401, 401, 403, 200]
    refused = httpx.get(f"{guarded.url}{path}", headers={"x-api-key": USER}, verify=False)
    assert refused.json()["error"]["code"] == "permission_denied"


@pytest.mark.parametrize("path", ["/ui/", "/ui/page.js", "/livez", "/readyz", "/version"])
def test_what_tells_nothing_of_tenants_is_open(guarded: Router, path: str) -> None:
    assert status(guarded, path, "") == 200


def test_an_operators_key_asks_as_any_other(guarded: Router) -> None:
    for key, expected in ((USER, 200), (OPERATOR, 200), ("", 401)):
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"prompt": [1], "max_tokens": 1}
        assert (
            httpx.post(f"{guarded.url}/v1/completions", json=body, headers=headers, verify=False).status_code
            == expected
        )


def test_the_commands_bring_a_key(guarded: Router) -> None:
    assert [pod.name for pod in look(guarded.url, [], OPERATOR).pods] == ["w1"]
    with pytest.raises(Unauthenticated, match="--api-key"):
        look(guarded.url, [])
    with pytest.raises(Forbidden, match="operator"):
        look(guarded.url, [], USER)
