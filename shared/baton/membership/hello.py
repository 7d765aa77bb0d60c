"""How a started worker introduces itself to other pods."""

from __future__ import annotations

from baton.core.ids import incarnation_id
from baton.engine.worker import Worker
from baton.protocol import pods


def introduction(worker: Worker, role: str, incarnation: str = "", pod: str = "") -> pods.Hello:
    """`incarnation` is the one that its lease names, where it has a lease."""
    facts = worker.facts
    assert facts is not None, "the worker has not started"
    return pods.Hello(
        version=pods.VERSION,
        worker=incarnation or incarnation_id(),
        role=role,
        fingerprint=facts.fingerprint,
        page_size=facts.page_size,
        ranks=facts.ranks,
        pod=pod,
    )
