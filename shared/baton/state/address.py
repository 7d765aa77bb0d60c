"""From a URL to a client of redis-py: one server, TLS, Sentinel or a cluster.

Called by `Link` alone. Connects to nothing: redis-py does so at the first command. No command is
retried more than once here, because whoever asks has a loop with a backoff of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, cast
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import EqualJitterBackoff

from baton.core.errors import InvalidSetting
from baton.state.settings import StateSettings

LONGEST_BLOCK_S = 0.5
"""The longest that a blocking command may ask the server to wait."""
REDIS_PORT, SENTINEL_PORT = 6379, 26379
KNOWN = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"


class Pipeline(Protocol):
    """Commands that leave together; not a transaction."""

    def execute_command(self, *command: Any) -> Any: ...

    async def execute(self, raise_on_error: bool = True) -> list[Any]: ...


class Client(Protocol):
    """What is used of redis-py's clients, which type none of it."""

    def execute_command(self, *command: Any) -> Awaitable[Any]: ...

    def pipeline(self, transaction: bool = ...) -> Pipeline: ...


@dataclass(frozen=True, slots=True)
class Connected:
    """A client that is ready to be asked."""

    client: Client
    clustered: bool
    """Keys lie on several servers: a command may name one key only, and none may block."""
    shown: str
    """The address without its secrets."""
    closers: tuple[Callable[[], Awaitable[None]], ...]
    forget: Callable[[], Awaitable[None]] | None = None
    """Drops idle connections, where redis-py would keep asking a server that has become a replica."""


def backoff(longest_s: float) -> EqualJitterBackoff:
    """Between attempts to reach Redis: ever longer, and never everybody in step."""
    return EqualJitterBackoff(cap=longest_s, base=min(0.05, longest_s))


class _Nowhere:
    """The client where there is no Redis: whoever asks is told so."""

    async def execute_command(self, *command: Any) -> Any:
        raise ConnectionError("no Redis is set")

    def pipeline(self, transaction: bool = True) -> Pipeline:
        raise ConnectionError("no Redis is set")


def nowhere() -> Connected:
    """For a process that does without Redis."""
    return Connected(_Nowhere(), False, "nowhere", ())


def connect(settings: StateSettings, name: str) -> Connected:
    """The client for the settings' URL; `name` is what the server lists it as."""
    parts = _split(settings.url)
    base, _, kind = parts.scheme.partition("+")
    if base not in ("redis", "rediss", "unix") or kind not in ("", "sentinel", "cluster"):
        raise InvalidSetting("url", f"must begin with {KNOWN}, not {parts.scheme}://")
    if base == "unix" and kind:
        raise InvalidSetting("url", f"must begin with {KNOWN}, not {parts.scheme}://")
    options = _options(settings, name, tls=base == "rediss")
    if base != "unix":
        options["socket_keepalive"] = True
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    try:
        if kind == "sentinel":
            return _by_sentinel(parts, settings, options, shown)
        # redis-py lets a URL's password win over the option's.
        netloc = _without_password(parts.netloc) if settings.password else parts.netloc
        url = urlunsplit(parts._replace(scheme=base, netloc=netloc))
        if kind == "cluster":
            cluster = RedisCluster.from_url(url, **options)
            return Connected(cast(Client, cluster), True, shown, (cluster.aclose,))
        single = Redis.from_url(url, max_connections=64, **options)
        forget = partial(single.connection_pool.disconnect, inuse_connections=False)
        return Connected(cast(Client, single), False, shown, (single.aclose,), forget)
    except (ValueError, TypeError) as error:
        raise InvalidSetting("url", f"{shown}: {error}") from error


def _split(url: str) -> SplitResult:
    """Refuses without its text what cannot be split: a password may stand anywhere in it."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise InvalidSetting("url", "is no URL; a password in it is percent-encoded") from error
    if not parts.scheme.startswith("unix") and "@" in parts.path + parts.query + parts.fragment:
        rule = "has its host behind a /, ? or #: in a password they are written %2F, %3F and %23"
        raise InvalidSetting("url", rule)
    return parts


def _without_password(netloc: str) -> str:
    user_info, at, host = netloc.rpartition("@")
    return f"{user_info.partition(':')[0]}{at}{host}"


def _options(settings: StateSettings, name: str, *, tls: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        # The replies' shapes differ between protocols, and 2 is the one that every server speaks.
        "protocol": 2,
        "client_name": name,
        "socket_connect_timeout": settings.deadline_s,
        # `Link` ends every call. A timeout of redis-py's own goes through asyncio.wait_for, which in Python
        # 3.11 loses a cancellation that meets a write's end: tasks would live on after they were closed.
        "socket_timeout": None,
        # Once, for a pooled connection that the server has closed meanwhile.
        "retry": Retry(EqualJitterBackoff(cap=0.1, base=0.01), 1),
    }
    if settings.password:
        options["password"] = settings.password
    if tls:
        files = {
            "ssl_ca_certs": settings.ca_file,
            "ssl_certfile": settings.certificate_file,
            "ssl_keyfile": settings.key_file,
        }
        options |= {option: file for option, file in files.items() if file}
    return options


def _by_sentinel(
    parts: SplitResult, settings: StateSettings, options: dict[str, Any], shown: str
) -> Connected:
    user_info, _, hosts = parts.netloc.rpartition("@")
    service, _, db = unquote(parts.path).strip("/").partition("/")
    if not service or not hosts:
        raise InvalidSetting("url", f"{shown}: needs {parts.scheme}://host:port,host:port/service")
    user, _, password = user_info.partition(":")
    if user:
        options["username"] = unquote(user)
    if password:
        options.setdefault("password", unquote(password))
    tls = {"ssl": True} if parts.scheme.startswith("rediss") else {}
    kept = ("protocol", "socket_", "retry", "ssl_")
    to_sentinels = {key: value for key, value in options.items() if key.startswith(kept)} | tls
    if settings.sentinel_password:
        to_sentinels["password"] = settings.sentinel_password
    sentinel = Sentinel(
        [_host_port(one) for one in hosts.split(",")],
        sentinel_kwargs=to_sentinels,
        db=int(db or 0),
        **options,
        **tls,
    )
    master = sentinel.master_for(service)
    closers = (master.aclose, *(one.aclose for one in sentinel.sentinels))
    return Connected(cast(Client, master), False, shown, closers)


def _host_port(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(f"{text!r} names no host")
    return parts.hostname, parts.port or SENTINEL_PORT
