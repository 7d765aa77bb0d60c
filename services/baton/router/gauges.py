"""What others know anyway, as gauges that are set when somebody asks for /metrics."""

from __future__ import annotations

from baton.router.entry import Admission
from baton.router.pods import Pods
from baton.state import FleetMirror
from baton.telemetry import Metrics


class Gauges:
    def __init__(
        self, metrics: Metrics, pods: Pods, admission: Admission, mirror: FleetMirror, *, shared: bool
    ) -> None:
        """`shared`: there is a Redis to tell of."""
        self._pods = pods
        self._admission = admission
        gauge = metrics.gauge
        gauge("baton_router_running", "Requests that are under way on pods.").set_function(
            lambda: admission.running
        )
        gauge("baton_router_waiting", "Requests that wait for admission.").set_function(
            lambda: admission.waiting
        )
        gauge("baton_router_index_pages", "Pages in the prefix index, over all workers.").set_function(
            lambda: len(pods.index)
        )
        if shared:
            self._state(metrics, mirror)
        gauge("baton_router_workers_shunned", "Workers that are kept away from.").set_function(
            lambda: len(pods.shunning.shunned)
        )
        gauge("baton_router_workers_slow", "Workers that take longer than they claim.").set_function(
            lambda: len(pods.paces.slow)
        )
        gauge("baton_router_routers", "Other routers that are heard of.").set_function(
            lambda: pods.loads.routers
        )
        self._workers = gauge("baton_router_workers", "Workers that live.", ("role",))
        self._running = metrics.familiar(
            "vllm:num_requests_running", "Sequences that pods work on.", ("model_name",)
        )
        self._waiting = metrics.familiar(
            "vllm:num_requests_waiting", "Waiting for pods, or for admission here.", ("model_name",)
        )
        self._usage = metrics.familiar(
            "vllm:kv_cache_usage_perc", "Share of decode pods' pages in use, 0 to 1.", ("model_name",)
        )

    @staticmethod
    def _state(metrics: Metrics, mirror: FleetMirror) -> None:
        gauge = metrics.gauge
        gauge("baton_router_index_lag_entries", "Prefix events written and not read yet.").set_function(
            lambda: mirror.health.lag
        )
        gauge("baton_router_state_reachable", "1 while Redis answers.").set_function(
            lambda: mirror.health.link.reachable
        )
        gauge("baton_router_state_silent_seconds", "Since Redis answered last.").set_function(
            lambda: mirror.health.link.silent_s
        )

    def set(self) -> None:
        leases = self._pods.fleet.workers.values()
        for role in ("prefill", "decode", "unified"):
            self._workers.labels(role).set(sum(one.role == role for one in leases))
        generation = self._pods.generation or self._pods.catalog.last
        if generation is None:
            return
        name = generation.model.names[0]
        decodes = [one for one in leases if one.role != "prefill"]
        loads = [one.load for one in decodes]
        self._running.labels(name).set(sum(one.running + one.prefilling for one in loads))
        self._waiting.labels(name).set(sum(one.waiting for one in loads) + self._admission.waiting)
        pages = sum(one.pages for one in decodes)
        free = sum(one.pages_free + one.pages_evictable for one in loads)
        self._usage.labels(name).set(max(0.0, 1 - free / pages) if pages else 0.0)
