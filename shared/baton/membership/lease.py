"""From what an engine turned out to be to the lease that says so. Pure."""

from __future__ import annotations

from baton.membership.settings import PodSettings
from baton.protocol.engine import EngineFacts, Load
from baton.state import Role, WorkerLease, WorkerLoad
from baton.state.lease import layout_of


def lease_of(
    facts: EngineFacts, pod: PodSettings, *, incarnation: str, role: Role, model: str, port: int,
    bound: str = "",
) -> WorkerLease:  # fmt: skip
    """`port` of its HTTP face; `bound`: where it listens for legs, as ZMQ says it, if it does.

    How its ranks are reached is not in it: pods tell each other when they meet, under the secret they share,
    and a lease may be read by more than those."""
    model_fingerprint = facts.fingerprint.hex()
    return WorkerLease(
        id=pod.name,
        incarnation=incarnation,
        role=role,
        http=pod.http(port),
        control=pod.control(bound) if bound else "",
        tensor_parallel=facts.tensor_parallel,
        page_size=facts.page_size,
        pages=facts.pages,
        page_bytes=facts.page_bytes,
        model=model,
        max_model_len=facts.max_model_len,
        vocabulary=facts.vocab,
        model_fingerprint=model_fingerprint,
        layout_fingerprint=layout_of(model_fingerprint, facts.page_size),
        generation=pod.generation,
        node=pod.node,
        zone=pod.zone,
        load=WorkerLoad(pages_free=facts.pages),
    )


def worker_load(load: Load) -> WorkerLoad:
    return WorkerLoad(
        waiting=load.waiting,
        running=load.running,
        prefilling=load.prefilling,
        pages_free=load.pages_free,
        pages_evictable=load.pages_evictable,
        prefill_tokens_queued=load.prefill_tokens_queued,
        prefill_tokens_per_s=load.prefill_tokens_per_s,
        decode_step_ms=load.decode_step_ms,
    )


def fits(mine: WorkerLease, theirs: WorkerLease) -> bool:
    """Whether these two may exchange pages, and the other takes legs."""
    return (
        theirs.id != mine.id
        and theirs.role in ("prefill", "unified")
        and bool(theirs.control)
        and theirs.layout_fingerprint == mine.layout_fingerprint
        and theirs.generation == mine.generation
    )
