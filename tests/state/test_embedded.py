"""A server of one's own: it comes up empty, goes with its process, and leaves nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.state.simulated import link_to

from baton.core.errors import DeadlineExceeded, StateUnreachable
from baton.state import EmbeddedRedis, Link, StateSettings, embedded

OWNER = """
import asyncio, sys
from baton.state import EmbeddedRedis
async def main():
    async with EmbeddedRedis() as redis:
        print(redis.port, redis.pid, flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


SECRET = 'open "sesame\\@/'


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_it_starts_stops_and_starts_again_empty() -> None:
    async def story() -> None:
        async with EmbeddedRedis() as redis, EmbeddedRedis() as other, link_to(redis) as link:
            assert redis.port != other.port
            await link.ask("SET", "key", "value")
            first = redis.pid
            await redis.stop()
            assert not redis.running and not _listens(redis.port)
            await redis.start()
            assert redis.running and redis.pid != first
            assert await link.ask("GET", "key") is None
        assert not redis.running and not other.running

    asyncio.run(story())


def test_it_asks_for_its_password() -> None:
    async def story() -> None:
        async with EmbeddedRedis(password=SECRET) as redis:
            command = Path(f"/proc/{redis.pid}/cmdline").read_bytes()
            assert b"redis-server" in command and b"sesame" not in command
            async with link_to(redis) as link:
                assert await link.ask("PING")
            bare = f"redis://127.0.0.1:{redis.port}"
            async with Link(StateSettings(url=bare, password=SECRET)) as link:
                assert await link.ask("PING")
            async with Link(StateSettings(url=bare)) as link:
                with pytest.raises(StateUnreachable, match=r"(?i)auth"):
                    await link.ask("PING")
            assert "sesame" not in repr(redis) + repr(StateSettings(url=redis.url)) + repr(link_to(redis))

    asyncio.run(story())


def test_one_that_does_not_answer_in_time_is_a_failure_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "START_DEADLINE_S", 0.0)

    async def story() -> None:
        redis = EmbeddedRedis()
        with pytest.raises(DeadlineExceeded, match="redis-server did not answer"):
            await redis.start()
        assert not redis.running

    asyncio.run(story())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_it_ends_with_its_process_even_if_that_is_killed(tmp_path: Path) -> None:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, env=environ, cwd=tmp_path
    )
    with owner:
        assert owner.stdout is not None
        port, server = map(int, owner.stdout.readline().split())
        assert _listens(port)
        owner.send_signal(signal.SIGKILL)
    end = time.monotonic() + 5
    while _listens(port):
        assert time.monotonic() < end
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []
    assert server > 0
