"""Figures of a run, and tables of them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.simulator.traces import Trace
from loadtest.simulator.work import Work

TTFT_BOUND_S, TPOT_BOUND_S = 0.5, 0.02
"""What counts as good, as in the measured runs."""


@dataclass(frozen=True, slots=True)
class Summary:
    trace: str
    policy: str
    requests: int
    cached_tokens: int
    at_hand_tokens: int
    """Held by some pod when the request was placed: what an oracle would have found there and then."""
    prompt_tokens: int
    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    gap_p50_s: float
    """Of requests, the longest that their stream stood still for others' prompts."""
    gap_p99_s: float
    good_share: float
    """Of requests within both bounds."""
    local_share: float
    """Computed by the decode pod itself."""
    gain_s: float
    """Mean of what not doing so was expected to save, over the others."""
    error_p50_s: float
    """Median distance of the first token from its prediction."""
    refusals: int
    repeated_tokens: int
    """What one endless cache for all would have found."""
    wall_s: float

    @property
    def cached_share(self) -> float:
        return self.cached_tokens / self.prompt_tokens

    @property
    def found_share(self) -> float:
        return self.cached_tokens / max(1, self.at_hand_tokens)

    @property
    def repeated_share(self) -> float:
        return self.cached_tokens / max(1, self.repeated_tokens)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def summary(trace: Trace, policy: str, done: Sequence[Work], wall_s: float) -> Summary:
    ttft = [one.ttft_s for one in done]
    tpot = [one.tpot_s for one in done if one.output > 1]
    apart = [one.gain_s for one in done if not one.local]
    good = sum(1 for one in done if one.ttft_s <= TTFT_BOUND_S and one.tpot_s <= TPOT_BOUND_S)
    return Summary(
        trace=trace.name,
        policy=policy,
        requests=len(done),
        cached_tokens=sum(one.cached for one in done),
        at_hand_tokens=sum(one.at_hand for one in done),
        prompt_tokens=sum(one.prompt for one in done),
        ttft_p50_s=quantile(ttft, 0.5),
        ttft_p99_s=quantile(ttft, 0.99),
        tpot_p50_s=quantile(tpot, 0.5),
        tpot_p99_s=quantile(tpot, 0.99),
        gap_p50_s=quantile([one.gap_s for one in done], 0.5),
        gap_p99_s=quantile([one.gap_s for one in done], 0.99),
        good_share=good / len(done),
        local_share=sum(one.local for one in done) / len(done),
        gain_s=statistics.fmean(apart) if apart else 0.0,
        error_p50_s=quantile([abs(one.ttft_s - one.predicted_s) for one in done], 0.5),
        refusals=sum(one.refusals for one in done),
        repeated_tokens=trace.repeated_tokens,
        wall_s=wall_s,
    )


def table(rows: Sequence[Summary]) -> str:
    """Markdown."""
    columns = [
        "policy", "cached", "of all at hand", "of all repeated", "TTFT p50 / p99, ms", "TPOT p50 / p99, ms",
        "longest gap p50 / p99, ms", "within bounds", "local", "expected gain, ms", "prediction off by, ms",
    ]  # fmt: skip
    return "\n".join(
        [_row(columns), "|---" * len(columns) + "|", *(_row(_cells(one)) for one in rows)],
    )


def _cells(one: Summary) -> list[str]:
    return [
        one.policy,
        f"{one.cached_share:.1%}",
        f"{one.found_share:.1%}",
        f"{one.repeated_share:.1%}",
        f"{one.ttft_p50_s * 1000:.0f} / {one.ttft_p99_s * 1000:.0f}",
        f"{one.tpot_p50_s * 1000:.1f} / {one.tpot_p99_s * 1000:.1f}",
        f"{one.gap_p50_s * 1000:.0f} / {one.gap_p99_s * 1000:.0f}",
        f"{one.good_share:.1%}",
        f"{one.local_share:.0%}",
        f"{one.gain_s * 1000:.0f}",
        f"{one.error_p50_s * 1000:.1f}",
    ]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
