"""One namespace under the restricted profile and one release in it, for all tests of the folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from tests.cluster.cluster import Release, run


@pytest.fixture(scope="session")
def space() -> Iterator[str]:
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("KUBECONFIG names no cluster")
    name = f"baton-test-{secrets.token_hex(3)}"
    run("kubectl", "create", "namespace", name)
    run("kubectl", "label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    run("kubectl", "delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def fleet(space: str) -> Iterator[Release]:
    """Default values, with grace periods that tests can wait for."""
    release = Release(space, "first")
    release.install(
        # Every prompt is handed over: for so small a model the router would seldom find it worth the while.
        router={"drainSeconds": 60, "config": {"placement": {"local": False}}},
        decode={"drainSeconds": 60},
        prefill={"drainSeconds": 60},
    )
    yield release
    release.uninstall()
