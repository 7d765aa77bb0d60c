"""Pictures of a fleet as lines of text. Pure: `status` prints them once, `top` every second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from baton.cli.fleet.figures import Figures
from baton.cli.fleet.read import Picture, Sight

RED, GREEN, YELLOW, DIM, BOLD, PLAIN = "\033[31m", "\033[32m", "\033[33m", "\033[2m", "\033[1m", "\033[0m"
STATES = {"ready": GREEN, "draining": YELLOW, "not ready": YELLOW, "unreachable": RED}
BAR = 10
"""Characters that the pages of a pod are drawn with."""
HEADS = (
    "POD",
    "ROLE",
    "STATE",
    "RUNNING",
    "WAITING",
    "PAGES USED",
    "CACHED",
    "PREFILL TOK/S",
    "STEP MS",
    "NODE",
)


@dataclass(frozen=True, slots=True)
class Cell:
    text: str
    style: str = ""


def lines(now: Picture, before: Picture | None, paint: bool) -> list[str]:
    """`before`: an earlier picture; without one, figures are since each process began."""
    shown = [_front(now, paint)] if now.router else []
    shown += [*_flow(now, before), ""]
    rows = [_row(pod) for pod in sorted(now.pods, key=lambda pod: (pod.role, pod.name))]
    shown += grid([[Cell(head, DIM) for head in HEADS], *rows], paint)
    shown += (
        ["", *[_styled(Cell(f"! {trouble}", RED), paint) for trouble in now.troubles]] if now.troubles else []
    )
    return shown


def _front(now: Picture, paint: bool) -> str:
    router = now.router
    assert router is not None
    state = _styled(Cell(router.state, STATES[router.state]), paint)
    detail = f"  {router.detail}" if router.detail else ""
    return f"router {router.address}  {state}  {len(now.pods)} pods{detail}"


def _flow(now: Picture, before: Picture | None) -> list[str]:
    """What went through: rates, latencies, cache, hand-overs."""
    spent = now.at - before.at if before else 0.0
    figures = now.figures.since(before.figures) if before else now.figures
    # A router sees each request once, also one that went to two pods.
    front = "baton_router" if figures.has("baton_router_requests_total") else "baton"
    generated = figures.total(f"{front}_tokens_total", kind="generated")
    rate = f" ({generated / spent:,.0f}/s)" if spent else ""
    prompt = figures.total("baton_tokens_total", kind="prompt")
    cached = figures.total("baton_tokens_total", kind="cached")
    hit = f"{cached / prompt:.0%} of prompt tokens from cache" if prompt else "no prompt seen"
    outcomes = ("completed", "cancelled", "rejected", "failed")
    ended = {name: figures.total(f"{front}_requests_total", outcome=name) for name in outcomes}
    requests = ", ".join(f"{count:,.0f} {outcome}" for outcome, count in ended.items() if count)
    period = f"last {spent:.0f} s" if before else "since start"
    ttft, itl = _spread(figures, f"{front}_ttft_seconds"), _spread(figures, f"{front}_itl_seconds")
    return [
        f"{period}: {requests or 'no request'}; {generated:,.0f} tokens{rate}; {hit}",
        f"TTFT {ttft}; ITL {itl}; {_handed(figures)}",
    ]


def _handed(figures: Figures) -> str:
    count, failed = (
        figures.total("baton_handoff_seconds_count"),
        figures.total("baton_handoff_failures_total"),
    )
    size = figures.total("baton_handoff_bytes_total") / 1e6
    took = _spread(figures, "baton_handoff_seconds")
    return f"hand-overs {count:,.0f}, {took}, {size:,.1f} MB, {failed:,.0f} failed"


def _spread(figures: Figures, name: str) -> str:
    half, most = figures.quantile(name, 0.5), figures.quantile(name, 0.99)
    return f"{half * 1e3:,.1f} / {most * 1e3:,.1f} ms" if half is not None and most is not None else "-"


def _row(pod: Sight) -> list[Cell]:
    style = STATES[pod.state]
    lease = pod.lease
    if lease is None:
        running = pod.figures.total("baton_running")
        waiting = pod.figures.total("baton_waiting")
        free, cached, used = (pod.figures.total("baton_pages", state=s) for s in ("free", "cached", "used"))
        pages, rate, step, node = free + cached + used, 0.0, 0.0, ""
    else:
        load = lease.load
        running, waiting = load.running + load.prefilling, load.waiting
        cached, pages = load.pages_evictable, lease.pages
        used = max(0, pages - load.pages_free - cached)
        rate, step, node = load.prefill_tokens_per_s, load.decode_step_ms, lease.node
    return [
        Cell(pod.name, BOLD), Cell(pod.role), Cell(pod.state, style),
        Cell(f"{running:.0f}"), Cell(f"{waiting:.0f}", YELLOW if waiting else ""),
        Cell(_bar(used, pages)), Cell(f"{cached / pages:.0%}" if pages else "-"),
        Cell(f"{rate:,.0f}" if rate else "-"), Cell(f"{step:.1f}" if step else "-"), Cell(node),
    ]  # fmt: skip


def _bar(used: float, pages: float) -> str:
    if not pages:
        return "-"
    full = round(BAR * used / pages)
    return f"{'█' * full}{'░' * (BAR - full)} {used / pages:4.0%}"


def grid(rows: Sequence[Sequence[Cell]], paint: bool) -> list[str]:
    """Columns as wide as their widest cell."""
    widths = [max(len(cell.text) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            _styled(Cell(cell.text.ljust(width), cell.style), paint)
            for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in rows
    ]


def _styled(cell: Cell, paint: bool) -> str:
    return f"{cell.style}{cell.text}{PLAIN}" if paint and cell.style else cell.text
