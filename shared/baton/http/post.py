"""What every POST has around it: a name, admission, a body, a deadline, an answer and an outcome.

Each concern is here once, for all endpoints of all services; what is particular to one is the `Answer`
it is given, and who is let in is its service's to say. Whatever goes wrong inside ends here as exactly one
of the outcomes, told to the client, counted, logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from starlette.types import Receive, Scope, Send

from baton.core.clock import Clock
from baton.core.errors import BatonError, Cancelled, DeadlineExceeded, InvalidField, InvalidRequest, Refused
from baton.core.ids import request_id
from baton.http.body import expect, header, is_number, read_body
from baton.http.reply import Header, Reply
from baton.http.settings import HttpSettings
from baton.http.straight import straight_of
from baton.telemetry import log_fields
from baton.trace import HEADER, NO_SPAN, SILENT, Span, Tracing

log = logging.getLogger("baton.requests")

DEADLINE_HEADER = "x-baton-deadline-ms"
"""How long the client will wait: a duration, since no two clocks agree."""
LONGEST_ID = 128

Guest = TypeVar("Guest")
"""What a service knows of a request that it let in, before it has read it."""


@dataclass(slots=True)
class Exchange(Generic[Guest]):
    """One request that was let in, with all that answering it takes."""

    id: str
    """The service's own id for it."""
    began: float
    """When it came, by the clock."""
    deadline: float
    """When it must be done, by the clock."""
    body: bytes
    guest: Guest
    scope: Scope
    receive: Receive
    reply: Reply
    notes: dict[str, object] = field(default_factory=dict)
    """What its log line and its span shall say besides."""
    span: Span = NO_SPAN


@dataclass(frozen=True, slots=True)
class Doors(Generic[Guest]):
    """What the endpoints of one service share."""

    admit: Callable[[Scope], AbstractContextManager[Guest]]
    """Lets a request in for as long as it is served, or raises why not; before its body is read."""
    count: Callable[[str, str], None]
    """Told of each request's endpoint and outcome."""
    http: HttpSettings
    deadline_s: float
    """How long a request may take in all."""
    clock: Clock
    tracing: Tracing = SILENT


class Post(Generic[Guest]):
    """An ASGI endpoint. `name` is its label in metrics and logs."""

    def __init__(
        self,
        name: str,
        answer: Callable[[Exchange[Guest]], Awaitable[None]],
        doors: Doors[Guest],
        kind: str = "application/json",
        more: Callable[[Exception], list[Header]] = lambda error: [],
    ) -> None:
        """`kind`: the body's content type. `more`: headers of a failure that is the whole answer."""
        self._name = name
        self._kind = kind
        self._more = more
        self._answer = answer
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        clock = self._doors.clock
        began = clock.now()
        id = request_id()
        shown = _client_id(scope) or id
        reply = Reply(receive, send, shown, straight_of(scope))
        span = self._span(scope, id, began)
        notes: dict[str, object] = {"endpoint": self._name}
        if span.recorded:
            notes["trace"] = span.trace
        with log_fields(request=id, **({} if shown == id else {"client_request": shown})):
            error = await self._attempt(scope, receive, reply, id, began, notes, span)
            if error is not None:
                with contextlib.suppress(TimeoutError):  # who does not read does not learn why
                    await reply.fail(error, self._more(error))
            self._close(error, reply.status, clock.now() - began, notes, span)

    def _span(self, scope: Scope, id: str, began: float) -> Span:
        tracing = self._doors.tracing
        if tracing is SILENT:
            return NO_SPAN
        span = tracing.serve(self._name, header(scope, HEADER.encode()), began)
        span.tell(request=id)
        return span

    async def _attempt(
        self,
        scope: Scope,
        receive: Receive,
        reply: Reply,
        id: str,
        began: float,
        notes: dict[str, object],
        span: Span,
    ) -> Exception | None:
        """What kept the request from being completed, if anything did."""
        doors = self._doors
        try:
            seconds = _deadline(scope, doors.deadline_s)
            async with asyncio.timeout(seconds) as limit:
                with doors.admit(scope) as guest:
                    expect(scope, self._kind)
                    body = await read_body(scope, receive, doors.http)
                    exchange = Exchange(
                        id, began, began + seconds, body, guest, scope, receive, reply, notes, span
                    )
                    await self._answer(exchange)
        except TimeoutError as error:
            if limit.expired():
                return DeadlineExceeded(f"the request took more than {seconds:g} seconds")
            log.exception("a wait timed out that should not have")
            return error
        except BatonError as error:
            return error
        except Exception as error:
            log.exception("a request failed for a reason nobody thought of")
            return error
        return None

    def _close(
        self, error: Exception | None, status: int, seconds: float, notes: dict[str, object], span: Span
    ) -> None:
        outcome = outcome_of(error)
        self._doors.count(self._name, outcome)
        if error is not None:
            notes["reason"] = str(error) or type(error).__name__
        log.info("request %s", outcome, extra={"status": status, "seconds": round(seconds, 4), **notes})
        span.tell(status=status, outcome=outcome, **{name: notes[name] for name in notes if name != "trace"})
        span.end(str(notes["reason"]) if outcome == "failed" else "")


def outcome_of(error: Exception | None) -> str:
    match error:
        case None:
            return "completed"
        case Cancelled():
            return "cancelled"
        case InvalidRequest() | Refused():
            return "rejected"
    return "failed"


def _client_id(scope: Scope) -> str | None:
    """The client's own id for its request, if it is fit to be repeated in headers and logs."""
    given = header(scope, b"x-request-id")
    fit = given is not None and len(given) <= LONGEST_ID and given.isascii() and given.isprintable()
    return given if fit and given else None


def _deadline(scope: Scope, most: float) -> float:
    """Seconds that the request may take."""
    given = header(scope, DEADLINE_HEADER.encode())
    if given is None:
        return most
    if not is_number(given, 10**9) or int(given) < 1:
        raise InvalidField(DEADLINE_HEADER, f"need a number of milliseconds, not {given[:LONGEST_ID]!r}")
    return min(most, int(given) / 1000)
