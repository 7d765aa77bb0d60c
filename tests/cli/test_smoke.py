"""`baton smoke`, which `helm test` runs: against a whole Baton, and what it makes of paths between pods."""

from __future__ import annotations

import httpx
import pytest
from tests.running import Running

from baton.cli import smoke
from baton.cli.fleet.figures import Figures
from baton.tiny import model_path
from baton.tokens.tokenizer import Tokenizer


def paths(*transports: str, ok: int = 1) -> Figures:
    lines = []
    for place, transport in enumerate(transports):
        told = f'peer="p/{place}",transport="{transport}",direction="write"'
        lines.append(f"baton_peer_bandwidth_bytes_per_second{{{told}}} 2e11")
        lines.append(f'baton_peer_path_ok{{peer="p/{place}"}} {ok}')
    return Figures.read("\n".join(lines) + "\n")


@pytest.mark.parametrize("transport", ["nvlink", "same gpu", "rdma", "cuda_ipc/cuda", "rc_mlx5/mlx5_0:1"])
def test_the_promised_path_is_passed(transport: str) -> None:
    smoke.require_fast(paths(transport))


@pytest.mark.parametrize(
    "transport",
    ["tcp", "tcp instead of nvlink", "less than nvlink", "pcie", "shared memory", "cuda_ipc/cuda, tcp/eth0"],
)
def test_any_other_path_fails_by_its_name(transport: str) -> None:
    """Also where the pods do not know better: without NVLink in sight, TCP is what they expect."""
    with pytest.raises(smoke.Failed, match=f"p/1 over {transport};"):
        smoke.require_fast(paths("nvlink", transport))


def test_a_path_that_is_slower_than_it_should_be_fails() -> None:
    with pytest.raises(smoke.Failed, match="p/0 over cuda_ipc/cuda"):
        smoke.require_fast(paths("cuda_ipc/cuda", ok=0))


@pytest.mark.parametrize("transport", ["rdma", "rc_mlx5/mlx5_0:1", "pcie", "less than nvlink", "same gpu"])
def test_rdma_alone_leaves_pods_of_one_node_what_they_have(transport: str) -> None:
    smoke.require_fast(paths(transport, ok=int("less" not in transport)), "rdma")


@pytest.mark.parametrize("transport", ["tcp", "tcp instead of pcie", "less than rdma", "rc_mlx5/x, tcp/eth0"])
def test_tcp_is_no_path_where_rdma_was_promised(transport: str) -> None:
    with pytest.raises(smoke.Failed, match=f"^RDMA was promised: p/1 over {transport};"):
        smoke.require_fast(paths("rdma", transport), "rdma")


def test_pods_are_found_by_either_kind_of_address() -> None:
    with httpx.Client() as http:
        for url in ("http://127.0.0.1:8000", "http://[::1]:8000"):
            assert smoke.Asker(http, "", url, 0.0).pods() == [url]


def test_a_promise_that_nobody_has_tried_fails() -> None:
    with pytest.raises(smoke.Failed, match="no pair of pods"):
        smoke.require_fast(Figures())


def said(*tokens: str, **likeliest: float) -> smoke.Said:
    """`likeliest` is of every token."""
    return smoke.Said(" ".join(tokens), tokens, (likeliest,) * len(tokens))


def test_the_same_words_are_the_same() -> None:
    assert smoke.require_same(said("a", "b"), said("a", "b"), "p", False) == "the same"


def test_other_words_fail_unless_rounding_may_choose_between_them() -> None:
    expected, other = said("a", "b", "c", b=-0.9, d=-1.0), said("a", "d", "x", b=-1.5, d=-1.0)
    with pytest.raises(smoke.Failed, match="p says 'a d x'"):
        smoke.require_same(expected, other, "p", False)
    told = smoke.require_same(expected, other, "p", True)
    assert told.startswith("the same up to token 2, where 'b' and 'd'"), "what follows may be anything"
    far = said("a", "b", "c", b=-0.5, d=-1.0)
    with pytest.raises(smoke.Failed):
        smoke.require_same(far, other, "p", True)
    with pytest.raises(smoke.Failed):
        smoke.require_same(expected, said("a", "e", b=-0.9, d=-1.0), "p", True)
    with pytest.raises(smoke.Failed):
        smoke.require_same(expected, said("a", b=-0.9), "p", True)


@pytest.mark.parametrize("below", [8, 64, 700])
def test_the_prompt_is_longer_than_what_a_pod_computes_itself(below: int) -> None:
    tokenizer = Tokenizer.load(model_path())
    assert 2 * below < len(tokenizer.encode(smoke.prompt_beyond(below, tokenizer))) < 2 * below + 200


def test_a_whole_baton_passes_and_is_not_taken_for_fast(running: Running) -> None:
    told = httpx.get(f"{running.url}/debug/fleet", timeout=10).json()["workers"]
    address = next(worker["http"] for worker in told if worker["role"] == "decode")
    port = httpx.URL(address).port
    words = ["--router", running.url, "--decode", address, "--tokenizer", str(model_path())]
    assert smoke.main([*words, "--metrics-port", str(port)]) == 0
    with pytest.raises(smoke.Failed, match="promised"):
        smoke.main([*words, "--metrics-port", str(port), "--fast-path"])
