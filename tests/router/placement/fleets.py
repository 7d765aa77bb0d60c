"""Leases, views and queries for the tests of placement."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from baton.router.placement import Decision, Health, PlacementSettings, Query, Roster, View
from baton.router.placement.decision import Refusal
from baton.state import InFlight, Role, WorkerLease, WorkerLoad

PAGE = 16
PAGE_BYTES = 2_359_296
SETTINGS = PlacementSettings()


def lease(
    id: str,
    role: Role = "decode",
    *,
    generation: str = "",
    layout: str = "f/16",
    pages: int = 40_000,
    free: int | None = None,
    rate: float = 40_000.0,
    step_ms: float = 6.0,
    running: int = 0,
    queued: int = 0,
    max_model_len: int = 131_072,
    bandwidths: Mapping[str, float] | None = None,
    node: str = "",
    zone: str = "",
    draining: bool = False,
) -> WorkerLease:
    return WorkerLease(
        id=id,
        incarnation="inc",
        role=role,
        http=f"http://{id}:8000",
        page_size=PAGE,
        pages=pages,
        model="m",
        max_model_len=max_model_len,
        page_bytes=PAGE_BYTES,
        model_fingerprint="f",
        layout_fingerprint=layout,
        generation=generation,
        node=node,
        zone=zone,
        draining=draining,
        bandwidths=bandwidths or {},
        load=WorkerLoad(
            running=running,
            pages_free=pages - 1 if free is None else free,
            prefill_tokens_queued=queued,
            prefill_tokens_per_s=rate,
            decode_step_ms=step_ms,
        ),
    )


def fleet(prefill: int, decode: int) -> list[WorkerLease]:
    """Workers that are all alike."""
    return [
        *(lease(f"p{number}", "prefill") for number in range(prefill)),
        *(lease(f"d{number}") for number in range(decode)),
    ]


def view(
    leases: Iterable[WorkerLease],
    mine: Mapping[str, tuple[int, int]] | None = None,
    others: Mapping[str, tuple[int, int]] | None = None,
    health: Mapping[str, Health] | None = None,
    *,
    now: float = 0.0,
    settings: PlacementSettings = SETTINGS,
) -> View:
    """`mine` and `others`: worker → requests and tokens in flight. The leases were heard of at 0."""
    return View(
        Roster.of(leases, settings),
        now,
        {id: InFlight(*one) for id, one in (mine or {}).items()},
        {id: InFlight(*one) for id, one in (others or {}).items()},
        health or {},
    )


def query(prompt_tokens: int = 2048, held: Mapping[str, int] | None = None, **more: object) -> Query:
    return Query(prompt_tokens=prompt_tokens, page_size=PAGE, held=held or {}, **more)  # type: ignore[arg-type]


def placed(found: Decision | Refusal) -> Decision:
    assert isinstance(found, Decision), found
    return found


def refused(found: Decision | Refusal) -> Refusal:
    assert isinstance(found, Refusal), found
    return found
