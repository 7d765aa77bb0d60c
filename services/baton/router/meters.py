"""What a router measures, under names that stay.

The relay and the admission add to it; what others know anyway is in `gauges`.
"""

from __future__ import annotations

from baton.router.placement import Decision
from baton.telemetry import Metrics, buckets


class Meters:
    def __init__(self, metrics: Metrics, policy: str) -> None:
        seconds = buckets.REQUEST_SECONDS
        self.metrics = metrics
        self.requests = metrics.counter(
            "baton_router_requests_total",
            "Requests that ended: completed, cancelled, rejected or failed.",
            ("endpoint", "outcome"),
        )
        self.ttft = metrics.histogram(
            "baton_router_ttft_seconds", "From a request to the first bytes of its answer.", seconds
        )
        self.itl = metrics.tally(
            "baton_router_itl_seconds", "Between two pieces of a stream, as they come.", buckets.STEP_SECONDS
        )
        self.e2e = metrics.histogram("baton_router_e2e_seconds", "Whole requests, completed.", seconds)
        self.queue = metrics.histogram(
            "baton_router_queue_seconds", "Waiting for admission, where there was any.", seconds
        )
        self.understand = metrics.histogram(
            "baton_router_understand_seconds",
            "Reading a request: validation, template, tokens, hashes.",
            buckets.HOST_SECONDS,
        )
        tokens = metrics.counter(
            "baton_router_tokens_total",
            "Tokens of prompts, those of them that pods found cached, and generated.",
            ("kind",),
        )
        self.prompt, self.cached, self.generated = map(tokens.labels, ("prompt", "cached", "generated"))
        self._failures()
        self._placements(policy)

    def _failures(self) -> None:
        metrics = self.metrics
        self.retries = metrics.counter(
            "baton_router_retries_total", "Requests begun again on another pod: nothing had been delivered."
        )
        self.resumes = metrics.counter(
            "baton_router_resumes_total", "Streams that another pod went on with after one was lost."
        )
        self.refusals = metrics.counter(
            "baton_router_refusals_total", "Pods that did not take a request.", ("code",)
        )
        self.given_up = metrics.counter(
            "baton_router_given_up_total", "Requests that failed after the last try that they had."
        )

    def _placements(self, policy: str) -> None:
        metrics = self.metrics
        placements = metrics.counter(
            "baton_router_placements_total",
            "Placements: prompts computed by the pod itself (local) or another one (apart).",
            ("policy", "where"),
        )
        self._local, self._apart = (placements.labels(policy, where) for where in ("local", "apart"))
        self._error = metrics.histogram(
            "baton_router_prediction_error_seconds",
            "How far the predicted time to the first token was off.",
            buckets.REQUEST_SECONDS,
            ("side",),
        )
        self._predicted = metrics.histogram(
            "baton_router_predicted_ttft_seconds",
            "The time to the first token that each placement expected.",
            buckets.REQUEST_SECONDS,
        )
        gain = metrics.counter(
            "baton_router_disaggregation_seconds_total",
            "Time to first tokens that prefilling elsewhere was expected to gain, or lose.",
            ("side",),
        )
        self._gained, self._lost = gain.labels("gained"), gain.labels("lost")
        self._early, self._late = self._error.labels("early"), self._error.labels("late")

    def placed(self, decision: Decision) -> None:
        (self._local if decision.local else self._apart).inc()
        self._predicted.observe(decision.predicted_ttft_s)
        if decision.gain_ttft_s:
            (self._gained if decision.gain_ttft_s > 0 else self._lost).inc(abs(decision.gain_ttft_s))

    def prediction(self, decision: Decision, ttft_s: float) -> None:
        """The first bytes of a stream came, so long after it was placed."""
        error = ttft_s - decision.predicted_ttft_s
        (self._late if error > 0 else self._early).observe(abs(error))
