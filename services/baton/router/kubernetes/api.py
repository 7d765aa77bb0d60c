"""Where the API server is and who we are to it: the pod's service account, or a plain address in tests.

The token is read each time: the kubelet replaces it about every hour.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Mapping
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlencode

from baton.core.errors import Misconfigured, PeerLost
from baton.router.wire import Origin, Pool, fetch, origin_of
from baton.router.wire.fetch import get

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
LIST_S = 30.0

T = TypeVar("T")


class Gone(PeerLost):
    """What a watch wanted to go on from is no longer remembered: list again."""


class Api:
    """Pods of one namespace that match one selector."""

    def __init__(
        self,
        selector: str,
        *,
        namespace: str = "",
        url: str = "",
        account: Path = ACCOUNT,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """`url` empty: the cluster that this process runs in."""
        if not url:
            host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
            if not host:
                raise Misconfigured("discovery.source is kubernetes, and this is no pod of a cluster")
            url = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        self._origin: Origin = origin_of(url)
        self._account = account
        self._namespace = namespace or self._read("namespace") or "default"
        self._selector = selector
        certificates = account / "ca.crt"
        tls = None
        if self._origin.tls:
            tls = ssl.create_default_context(cafile=str(certificates) if certificates.exists() else None)
        self._pool = Pool(tls)

    def __repr__(self) -> str:
        return f"Api({self._origin}, {self._namespace}, {self._selector}, {self._pool!r})"

    async def pods(self) -> bytes:
        """The list of them, as the server writes it. One page: a fleet is no more than some hundred pods."""
        head, body = await fetch(
            self._pool, self._origin, self._path(), seconds=LIST_S, headers=self._headers()
        )
        if head.status != 200:
            raise PeerLost(f"the API server answers {head.status}: {body[:200]!r}")
        return body

    async def watch(self, version: str, seconds: int) -> AsyncIterator[bytes]:
        """Events since that version, one line each, until the server ends it; a little over `seconds`."""
        path = self._path(
            watch="1", resourceVersion=version, allowWatchBookmarks="true", timeoutSeconds=str(seconds)
        )
        rest = b""
        async with self._pool.lend(self._origin, fresh=True) as connection:
            head = await _within(connection.ask(get(self._origin, path, self._headers())), LIST_S)
            if head.status == 410:
                raise Gone("the API server has forgotten where we were")
            if head.status != 200:
                raise PeerLost(f"the API server answers {head.status}")
            while data := await _within(connection.read(), seconds + 15.0):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield line
            connection.abort("its watch is over")  # each has one of its own, so nobody would take it

    def close(self) -> None:
        self._pool.close()

    def _path(self, **query: str) -> str:
        asked = urlencode({"labelSelector": self._selector, **query})
        return f"/api/v1/namespaces/{self._namespace}/pods?{asked}"

    def _headers(self) -> Mapping[str, str]:
        token = self._read("token")
        return {"authorization": f"Bearer {token}"} if token else {}

    def _read(self, name: str) -> str:
        try:
            return (self._account / name).read_text(encoding="utf-8").strip()
        except OSError:
            return ""


async def _within(waiting: Awaitable[T], seconds: float) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await waiting
    except TimeoutError as error:
        raise PeerLost(f"the API server was silent for {seconds:g} seconds") from error
