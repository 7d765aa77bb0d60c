"""What a pod measures: requests, tokens, times, and its engine's load as of the last news.

Also the three gauges by which schedulers and autoscalers know any vLLM-like server, under their names.
"""

from __future__ import annotations

from collections.abc import Callable

from baton.decode.front import Front
from baton.protocol.engine import Load
from baton.telemetry import Metrics, buckets


class Meters:
    def __init__(self, metrics: Metrics, front: Front, model: str) -> None:
        """`model` is the name that clients call it."""
        self._front = front
        self.requests = metrics.counter(
            "baton_requests_total",
            "Requests that ended: completed, cancelled, rejected or failed.",
            ("endpoint", "outcome"),
        )
        tokens = metrics.counter(
            "baton_tokens_total", "Tokens of prompts, those of them found in the cache, and generated.",
            ("kind",),
        )  # fmt: skip
        self.prompt, self.cached, self.generated = map(tokens.labels, ("prompt", "cached", "generated"))
        self._tokens = tokens
        seconds = buckets.REQUEST_SECONDS
        self.ttft = metrics.histogram("baton_ttft_seconds", "From a request to its first token.", seconds)
        self.itl = metrics.histogram(
            "baton_itl_seconds", "Between two tokens of a sequence.", buckets.STEP_SECONDS
        )
        self.e2e = metrics.histogram("baton_e2e_seconds", "Whole requests that were completed.", seconds)
        self._gauges(metrics)
        self._familiar(metrics, model)

    def tokens(self, kind: str) -> int:
        """Of that kind, so far."""
        (family,) = self._tokens.labels(kind).collect()
        return int(family.samples[0].value)

    def _gauges(self, metrics: Metrics) -> None:
        load = self._load
        running = metrics.gauge("baton_running", "Sequences that are computed: prompts and decodes.")
        running.set_function(lambda: load().running + load().prefilling)
        metrics.gauge("baton_waiting", "Sequences that wait for a place.").set_function(
            lambda: load().waiting
        )
        metrics.gauge(
            "baton_prefill_tokens_queued", "Prompt tokens that are still to be computed here."
        ).set_function(lambda: load().prefill_tokens_queued)
        pages = metrics.gauge(
            "baton_pages", "Pages of the pool: free, cached (given up when needed) and used.", ("state",)
        )
        pages.labels("free").set_function(lambda: load().pages_free)
        pages.labels("cached").set_function(lambda: load().pages_evictable)
        pages.labels("used").set_function(lambda: _used(load()))

    def _familiar(self, metrics: Metrics, model: str) -> None:
        load = self._load

        def gauge(name: str, meaning: str, value: Callable[[], float]) -> None:
            metrics.familiar(f"vllm:{name}", meaning, ("model_name",)).labels(model).set_function(value)

        gauge("num_requests_running", "As baton_running.", lambda: load().running + load().prefilling)
        gauge("num_requests_waiting", "As baton_waiting.", lambda: load().waiting)
        gauge(
            "kv_cache_usage_perc", "Share of the pages that are used, 0 to 1.",
            lambda: _used(load()) / max(load().pages_total, 1),
        )  # fmt: skip

    def _load(self) -> Load:
        facts = self._front.facts
        return self._front.load or _idle(facts.pages if facts is not None else 0)


def _used(load: Load) -> int:
    return load.pages_total - load.pages_free - load.pages_evictable


def _idle(pages: int) -> Load:
    return Load(
        waiting=0, prefilling=0, running=0, pages_free=pages, pages_cached=0, pages_evictable=0,
        pages_total=pages, retractions=0, steps=0,
    )  # fmt: skip
