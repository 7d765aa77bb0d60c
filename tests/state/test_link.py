"""Reaching Redis: by every kind of URL, within a deadline, with one error for all that may go wrong."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.state.simulated import (
    Worker,
    each_at_once,
    eventually,
    identities,
    lease,
    link_to,
    linked,
    stopped,
)

from baton.core.errors import InvalidSetting, StateUnreachable
from baton.state import EmbeddedRedis, FleetMirror, Link, StateSettings
from baton.state.embedded import free_port, redis_server
from baton.state.keys import Keys


def test_every_call_ends_within_its_deadline_and_the_link_recovers() -> None:
    async def story() -> None:
        async with EmbeddedRedis() as redis, link_to(redis, deadline_s=0.2) as link:
            assert not link.health.reachable
            await link.ask("SET", "a", "1")
            with stopped(redis):
                for call in (
                    lambda: link.ask("GET", "a"),
                    lambda: link.ask_all([("GET", "a"), ("GET", "b")]),
                ):
                    start = time.monotonic()
                    with pytest.raises(StateUnreachable):
                        await call()
                    assert time.monotonic() - start < 2.0
                assert not link.health.reachable and link.health.outages == 1
                assert link.health.failures == 2 and link.health.error
            # No answer to an old question is taken for the answer to a new one.
            for n in range(20):
                await link.ask("SET", f"k{n}", n)
                assert await link.ask("GET", f"k{n}") == str(n).encode()
            assert link.health.reachable and link.health.error == "" and link.health.silent_s < 0.5

    asyncio.run(story())


def test_many_calls_that_run_out_of_time_together_leave_no_mix_up() -> None:
    async def story() -> None:
        async with EmbeddedRedis() as redis, link_to(redis, deadline_s=1.0) as link:
            await link.ask_all([("SET", f"k{n}", n) for n in range(50)])
            for _ in range(2):
                with stopped(redis):
                    asked = [asyncio.create_task(link.ask("GET", f"k{n}")) for n in range(20)]
                    await asyncio.wait(asked)
                    assert all(isinstance(one.exception(), StateUnreachable) for one in asked)
                await link.ask("PING")
                answers = await asyncio.gather(*(link.ask("GET", f"k{n}") for n in range(50)))
                assert answers == [str(n).encode() for n in range(50)]

    asyncio.run(story())


def test_what_redis_refuses_is_one_error_too() -> None:
    async def story() -> None:
        async with linked() as (_, link):
            await link.ask("SET", "text", "1")
            with pytest.raises(StateUnreachable, match="WRONGTYPE"):
                await link.ask("SMEMBERS", "text")
            with pytest.raises(StateUnreachable, match="WRONGTYPE"):
                await link.ask_all([("GET", "text"), ("SMEMBERS", "text")])
            fine, refused = await link.ask_all([("GET", "text"), ("SMEMBERS", "text")], keep_errors=True)
            assert fine == b"1" and isinstance(refused, Exception)

    asyncio.run(story())


def test_a_master_that_became_a_replica_is_left_for_whoever_answers_now() -> None:
    async def story() -> None:
        async with linked() as (redis, link):
            before = await link.ask("CLIENT", "ID")
            assert await link.ask("CLIENT", "ID") == before
            await link.ask("REPLICAOF", "127.0.0.1", redis.port)
            for write in (link.ask("SET", "a", "1"), link.ask_all([("SET", "a", "1")])):
                with pytest.raises(StateUnreachable, match=r"(?i)read.?only"):
                    await write
                after = await link.ask("CLIENT", "ID")
                assert after > before
                before = after

    asyncio.run(story())


def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    async def story() -> None:
        async with (
            EmbeddedRedis("--unixsocket", str(tmp_path / "redis")),
            Link(StateSettings(url=f"unix://{tmp_path}/redis")) as link,
        ):
            assert await link.ask("PING")

    asyncio.run(story())


@pytest.mark.parametrize(
    "url",
    ["http://x", "redis+magic://x", "unix+cluster:///x", "redis+sentinel://x:1", "redis://x:port/0", ""],
)
def test_a_wrong_address_is_refused_before_anything_runs(url: str) -> None:
    with pytest.raises(InvalidSetting, match="url"):
        Link(StateSettings(url=url))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:9f/geheim@host:6379/0",
        "redis://:9f#geheim@host",
        "redis://:9f?geheim@host",
        "redis://[geheim",
    ],
)
def test_a_password_that_breaks_its_url_is_not_told(url: str) -> None:
    """Base64 has slashes: what is behind one is no host's name, and the message goes to logs."""
    with pytest.raises(InvalidSetting, match="url") as refused:
        Link(StateSettings(url=url))
    assert "geheim" not in str(refused.value) and "9f" not in str(refused.value)


def test_a_password_of_its_own_goes_before_the_url_s() -> None:
    async def story() -> None:
        async with EmbeddedRedis(password="geheim") as redis:
            url = f"redis://default:old@127.0.0.1:{redis.port}/0"
            async with Link(StateSettings(url=url, password="geheim")) as link:
                assert await link.ask("PING")

    asyncio.run(story())


@pytest.mark.parametrize("fields", [{"prefix": "a{b}"}, {"prefix": ""}, {"deadline_s": 0.0}])
def test_wrong_settings_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidSetting):
        StateSettings(**fields)  # type: ignore[arg-type]


async def _whole_story(workers: Link, routers: Link) -> None:
    """Leases, events and loads through these links."""
    async with (
        Worker(workers, "w1") as one,
        Worker(workers, "w2") as other,
        FleetMirror(routers, "r1") as mirror,
        FleetMirror(workers, "r2") as second,
    ):
        chain = one.store(identities(20))
        other.change([], chain[:5])
        await eventually(lambda: mirror.index.lookup(chain) == {"w1": 20, "w2": 5})
        second.loads.hold("w1", 9)
        await eventually(lambda: mirror.loads.total("w1") == (1, 9))
        one.keeper.revise(draining=True)
        await eventually(lambda: mirror.fleet.workers["w1"].draining)
        assert mirror.health.events.gaps == 0 and mirror.health.link.failures == 0
    assert workers.health.failures == 0


def test_a_prefix_keeps_fleets_apart() -> None:
    async def story() -> None:
        async with (
            EmbeddedRedis() as redis,
            link_to(redis, prefix="one") as link,
            link_to(redis, prefix="other") as other,
        ):
            async with Worker(link, "w1"), FleetMirror(other, "r1") as mirror:
                await eventually(lambda: mirror.board.health.read)
                await asyncio.sleep(0.3)
                assert not mirror.fleet.workers
            await _whole_story(link, link)

    asyncio.run(story())


def test_keys_of_a_worker_share_a_slot_and_a_fleet_s_do_too() -> None:
    keys = Keys("baton")
    tags = {
        key[key.index("{") : key.index("}") + 1]
        for key in (
            keys.lease("w1"),
            keys.facts("w1"),
            keys.events("w1", "inc-1"),
            keys.pages("w1", "inc-1"),
        )
    }
    assert tags == {"{w1}"}
    for key in (keys.workers, keys.nudges, keys.loads):
        assert key.startswith("{baton}")


@asynccontextmanager
async def _sentinel(redis: EmbeddedRedis, tmp_path: Path) -> AsyncIterator[int]:
    config, port = tmp_path / "sentinel.conf", free_port()
    config.write_text(
        f"bind 127.0.0.1\nport {port}\nsentinel monitor fleet 127.0.0.1 {redis.port} 1\n"
        "sentinel auth-pass fleet geheim\n"
    )
    sentinel = await asyncio.create_subprocess_exec(
        redis_server(), str(config), "--sentinel", stdout=subprocess.DEVNULL
    )
    try:
        async with Link(StateSettings(url=f"redis://127.0.0.1:{port}")) as link:
            while not link.health.reachable:
                with suppress(StateUnreachable):
                    await link.ask("PING")
                await asyncio.sleep(0.02)
        yield port
    finally:
        sentinel.kill()
        await sentinel.wait()


async def _by_cluster(tmp_path: Path) -> None:
    """A single server in cluster mode refuses commands over several slots as a large one would."""
    nodes = ("--cluster-enabled", "yes", "--cluster-config-file", str(tmp_path / "nodes.conf"))
    async with EmbeddedRedis(*nodes) as redis:
        async with link_to(redis) as plain:
            await plain.ask("CLUSTER", "ADDSLOTS", *range(16384))
            while b"cluster_state:ok" not in await plain.ask("CLUSTER", "INFO"):
                await asyncio.sleep(0.02)
        url = redis.url.replace("redis://", "redis+cluster://")
        async with Link(StateSettings(url=url)) as one, Link(StateSettings(url=url)) as other:
            assert one.clustered
            await _whole_story(one, other)


async def _by_sentinels(tmp_path: Path) -> None:
    async with EmbeddedRedis(password="geheim") as redis, _sentinel(redis, tmp_path) as port:
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/fleet/0"
        settings = StateSettings(url=url, password="geheim")
        async with Link(settings) as one, link_to(redis) as other:
            await _whole_story(one, other)
        async with Link(StateSettings(url=url.replace("/fleet/0", "/nobody"))) as nowhere:
            with pytest.raises(StateUnreachable, match="nobody"):
                await nowhere.ask("PING")


def test_clusters_and_sentinels_serve_as_well(tmp_path: Path) -> None:
    ways = {"cluster": _by_cluster, "sentinel": _by_sentinels}
    each_at_once(lambda way: ways[way](tmp_path), list(ways))


@asynccontextmanager
async def _tls_in_front_of(redis: EmbeddedRedis, folder: Path) -> AsyncIterator[int]:
    """A port that speaks TLS and passes on to the server, whose program was built without."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")],
        check=True, capture_output=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "ca.pem", folder / "key.pem")

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                target.write(data)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            target.close()

    copies: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner = await asyncio.open_connection("127.0.0.1", redis.port)
        for pair in ((reader, inner[1]), (inner[0], writer)):
            copies.add(asyncio.create_task(copy(*pair)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for one in copies:
            one.cancel()
        await asyncio.gather(*copies)


@pytest.mark.skipif(not shutil.which("openssl"), reason="makes its certificate with openssl")
def test_tls_is_spoken_and_the_certificate_checked(tmp_path: Path) -> None:
    async def story() -> None:
        async with EmbeddedRedis() as redis, _tls_in_front_of(redis, tmp_path) as port:
            url = f"rediss://localhost:{port}/0"
            async with Link(
                StateSettings(url=url, ca_file=str(tmp_path / "ca.pem"), deadline_s=20.0)
            ) as link:
                await _whole_story(link, link)
            async with Link(StateSettings(url=url)) as link:
                with pytest.raises(StateUnreachable, match=r"(?i)certificate"):
                    await link.ask("PING")

    asyncio.run(story())


def test_a_lease_survives_the_way_through_redis_with_every_field() -> None:
    async def story() -> None:
        full = lease(agents=(bytes(range(256)), b""), bandwidths={"w2": 1.5}, generation="g7", zone="b")
        async with linked() as (_, link), Worker(link) as worker, FleetMirror(link, "r1") as mirror:
            worker.keeper.revise(agents=full.agents, bandwidths=full.bandwidths, generation="g7", zone="b")
            await eventually(lambda: "w1" in mirror.fleet.workers)
            await eventually(lambda: mirror.fleet.workers["w1"].zone == "b")
            seen = mirror.fleet.workers["w1"]
            assert (seen.agents, seen.bandwidths, seen.generation) == (
                full.agents,
                full.bandwidths,
                "g7",
            )

    asyncio.run(story())
