"""A router that finds pods through the Kubernetes API, against a server that speaks its list and watch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from tests.router.apiserver import ApiServer
from tests.router.stage import Router, Stage
from tests.spawned import eventually

from baton.testing.simulated import SimulatedWorker, Timing

FLAGS = [
    "--discovery.source",
    "kubernetes",
    "--discovery.namespace",
    "llm",
    "--discovery.selector",
    "app=baton",
]


@pytest.fixture(scope="module")
def api(stage: Stage) -> Iterator[ApiServer]:
    async def make() -> ApiServer:
        made = ApiServer()
        await made.start()
        return made

    made = stage.call(make())
    yield made
    stage.call(made.stop())


@pytest.fixture(scope="module", params=["redis://127.0.0.1:9/0", ""], ids=["silent", "none"])
def cluster(stage: Stage, api: ApiServer, request: pytest.FixtureRequest) -> Iterator[Router]:
    """There is no Redis, or none where it is said to be: leases come from the pods alone."""
    router = Router(request.param, *FLAGS, "--discovery.api", api.url)
    yield router
    router.close()


@pytest.fixture
def pods(stage: Stage, api: ApiServer, cluster: Router) -> Iterator[list[SimulatedWorker]]:
    made = [stage.worker(id, Timing(step_s=0.01), state_url="") for id in ("p1", "p2")]
    for worker in made:
        stage.call(api.add(worker.settings.id, worker.port))
    cluster.await_fleet("p1", "p2")
    yield made
    for name in list(api.pods):
        stage.call(api.delete(name))
    for worker in made:
        stage.leave(worker)
    eventually(lambda: not cluster.fleet())


def ask(router: Router, **more: Any) -> httpx.Response:
    body = {"prompt": [1, 2, 3], "max_tokens": 2, **more}
    return httpx.post(
        f"{router.url}/v1/completions",
        json=body,
        headers={"x-baton-explain": "true"},
        timeout=20,
        verify=False,
    )


def shown(router: Router) -> dict[str, bool]:
    """Who there is, and whether it is draining."""
    fleet = httpx.get(f"{router.url}/debug/fleet", verify=False).json()["workers"]
    return {one["id"]: one["draining"] for one in fleet}


def test_pods_that_are_listed_serve(cluster: Router, pods: list[SimulatedWorker]) -> None:
    assert cluster.ready()
    assert ask(cluster).status_code == 200
    detail = httpx.get(f"{cluster.url}/readyz", verify=False).json()
    assert detail["kubernetes"]["synced"] and not detail.get("state", {}).get("reachable")


def test_without_redis_nobody_knows_what_pods_have_cached(
    cluster: Router, pods: list[SimulatedWorker]
) -> None:
    for _ in range(2):
        answer = ask(cluster, prompt=list(range(1, 200)))
        assert answer.status_code == 200 and answer.headers["x-baton-expected-cached-tokens"] == "0"


def test_leases_need_a_redis() -> None:
    router = Router("")
    try:
        assert router.wait(100) == 2
    finally:
        router.close()
    said = f"{router.words} {router.log}"
    assert "state.url" in said and "discovery.source to kubernetes" in said


def test_a_pod_that_is_being_deleted_gets_no_new_work_at_once(
    stage: Stage, api: ApiServer, cluster: Router, pods: list[SimulatedWorker]
) -> None:
    chosen = ask(cluster).headers["x-baton-decode"]
    open: dict[str, Any] = {"prompt": [1, 2, 3], "max_tokens": 60, "stream": True}
    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=open, timeout=20, verify=False) as answer:
        lines = answer.iter_lines()
        next(lines)
        stage.call(api.leave(chosen))
        assert eventually(lambda: shown(cluster)[chosen], 2) < 1
        for _ in range(4):
            assert ask(cluster).headers["x-baton-decode"] != chosen
        assert [line for line in lines if line][-1] == "data: [DONE]", "what it had goes on there"
    stage.call(api.delete(chosen))
    eventually(lambda: chosen not in cluster.fleet(), 2)
    assert cluster.ready()


def test_a_pod_that_is_not_ready_is_left_alone(
    stage: Stage, api: ApiServer, cluster: Router, pods: list[SimulatedWorker]
) -> None:
    stage.call(api.set_ready("p1", False))
    eventually(lambda: shown(cluster)["p1"], 2)
    assert {ask(cluster).headers["x-baton-decode"] for _ in range(3)} == {"p2"}
    stage.call(api.set_ready("p1", True))
    eventually(lambda: not shown(cluster)["p1"], 2)


def test_a_watch_that_breaks_goes_on_where_it_was(
    stage: Stage, api: ApiServer, cluster: Router, pods: list[SimulatedWorker]
) -> None:
    lists, watches = api.lists, api.watches
    stage.call(api.bookmark())
    stage.call(api.cut())
    stage.call(api.leave("p1"))
    eventually(lambda: shown(cluster)["p1"])
    assert api.lists == lists and api.watches > watches
    assert any(f"resourceVersion={api.version - 1}" in path for path in api.paths), "the bookmark counted"


@pytest.mark.parametrize("how", ["answer", "event"])
def test_a_watch_that_is_too_far_behind_lists_again(
    stage: Stage, api: ApiServer, cluster: Router, pods: list[SimulatedWorker], how: str
) -> None:
    lists = api.lists
    if how == "answer":
        stage.call(api.forget())
        stage.call(api.cut())
    else:
        stage.call(api.expire())
    eventually(lambda: api.lists > lists)
    stage.call(api.leave("p2"))
    eventually(lambda: shown(cluster)["p2"])


def test_the_api_server_may_be_away(
    stage: Stage, api: ApiServer, cluster: Router, pods: list[SimulatedWorker]
) -> None:
    stage.call(api.stop())
    eventually(lambda: bool(httpx.get(f"{cluster.url}/readyz", verify=False).json()["kubernetes"]["error"]))
    time.sleep(1)
    assert ask(cluster).status_code == 200 and cluster.fleet() == {"p1", "p2"}
    stage.call(api.start())
    stage.call(api.leave("p1"))
    eventually(lambda: shown(cluster)["p1"], 10)


def test_a_pod_that_died_is_out_though_it_is_listed(
    stage: Stage, api: ApiServer, cluster: Router, pods: list[SimulatedWorker]
) -> None:
    stage.kill(pods[0])
    for _ in range(4):
        assert ask(cluster).headers["x-baton-decode"] == "p2"
    eventually(lambda: cluster.fleet() == {"p2"}, 10)
    # The container comes back in the same pod, as another run of it.
    back = stage.worker("p1", state_url="", port=pods[0].port)
    eventually(lambda: cluster.fleet() == {"p1", "p2"}, 10)
    stage.leave(back)
    stage.peers.workers.setdefault("p1", pods[0])
