"""API keys, read from a mounted file and read again when it changes.

    # name:key[:rate[:concurrency[:priority[:operator]]]]  requests a second, and at a time; 0 is no limit
    alice:sk-4bb1…:10:64
    batch:sk-77aa…:::100                                   a higher number waits longer
    ops:sk-90c2…::::operator                               may see what the router does for everybody

Only digests are kept. A file that cannot be read while running leaves the keys as they were, and says so.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from starlette.types import Scope

from baton.core.clock import Clock
from baton.core.errors import Forbidden, InvalidSetting, Unauthenticated
from baton.http.body import header

log = logging.getLogger(__name__)

LOOK_S = 1.0
SHORTEST = 8
PRIORITIES = 1000
OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Key:
    name: str
    digest: bytes = b""
    rate: float = 0.0
    """Requests a second; 0 without limit."""
    concurrency: int = 0
    """Requests at a time; 0 without limit."""
    priority: int = 0
    """Lower is served sooner."""
    operator: bool = False
    """May see other keys' requests: placements, loads, the page's feed."""


ANYBODY = Key("")
"""Where no keys are asked for."""


def digest_of(secret: str) -> bytes:
    return blake2b(secret.encode(), digest_size=32, person=b"baton.key").digest()


def read_keys(text: str) -> Mapping[bytes, Key]:
    """By digest. InvalidSetting says which line is wrong, never what it holds."""
    keys: dict[bytes, Key] = {}
    names: set[str] = set()
    for number, line in enumerate(text.splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            key = _read(line)
        except ValueError as error:
            raise InvalidSetting("keys.file", f"line {number}: {error}") from None
        if key.digest in keys or key.name in names:
            raise InvalidSetting("keys.file", f"line {number}: its name or key came before")
        keys[key.digest] = key
        names.add(key.name)
    return keys


def _read(line: str) -> Key:
    parts = [part.strip() for part in line.split(":")]
    if not 2 <= len(parts) <= 6:
        raise ValueError("must be name:key[:rate[:concurrency[:priority[:operator]]]]")
    name, secret, rate, concurrency, priority, mark = parts + [""] * (6 - len(parts))
    if not name or not name.isprintable() or len(secret) < SHORTEST or not secret.isascii():
        raise ValueError(f"needs a name, and a key of {SHORTEST} ASCII characters or more")
    if mark not in ("", OPERATOR):
        raise ValueError(f"the sixth part must be empty or {OPERATOR!r}")
    try:
        key = Key(
            name, digest_of(secret), float(rate or 0), int(concurrency or 0), int(priority or 0),
            operator=mark == OPERATOR,
        )  # fmt: skip
    except ValueError:
        raise ValueError("rate, concurrency and priority must be numbers") from None
    if not (0 <= key.rate < 1e9) or key.concurrency < 0 or abs(key.priority) > PRIORITIES:
        raise ValueError(
            f"rate and concurrency are 0 or more, priority between -{PRIORITIES} and {PRIORITIES}"
        )
    return key


class KeyRing:
    """Opened with the settings' file; an empty name asks nobody for a key."""

    def __init__(self, file: str, clock: Clock) -> None:
        self._path = Path(file) if file else None
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None
        self._keys: Mapping[bytes, Key] = {}
        self._failed = False
        if self._path is not None:
            try:
                self._seen = self._stamp()
                self._keys = read_keys(self._path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidSetting("keys.file", f"cannot be read: {error}") from error

    def __repr__(self) -> str:
        return f"KeyRing({len(self._keys)} keys)" if self._path else "KeyRing(open)"

    def who(self, scope: Scope) -> Key:
        """Whose request it is; Unauthenticated when nobody's."""
        if self._path is None:
            return ANYBODY
        given = header(scope, b"authorization")
        kind, _, secret = (given or "").partition(" ")
        if kind.lower() != "bearer":
            secret = header(scope, b"x-api-key") or ""
        if not secret:
            raise Unauthenticated("no API key: send it as 'Authorization: Bearer KEY'")
        digest = digest_of(secret.strip())
        # Digests are looked up, so how long it takes tells nothing of any key.
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            raise Unauthenticated("the API key is not known here")
        return key

    def check_operator(self, scope: Scope) -> None:
        """Raise unless an operator asks; where nobody is asked for a key, everybody is one."""
        if self._path is not None and not self.who(scope).operator:
            raise Forbidden("this needs an operator's key")

    async def follow(self) -> None:
        """Read the file again whenever it has changed, for as long as the router runs."""
        while self._path is not None:
            await self._clock.sleep(LOOK_S)
            self.look()

    def look(self) -> None:
        assert self._path is not None
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._keys = read_keys(self._path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, InvalidSetting) as error:
            if not self._failed:
                log.error("the keys cannot be read; going on with those before", extra={"cause": str(error)})
            self._failed = True
            return
        self._seen, self._failed = stamp, False
        log.info("keys were read again", extra={"keys": len(self._keys)})

    def _stamp(self) -> tuple[int, int, int]:
        """Of the file that the name leads to: a mounted secret is replaced by moving a link."""
        assert self._path is not None
        stat = os.stat(self._path)
        return stat.st_ino, stat.st_mtime_ns, stat.st_size
