"""Which model the live pods serve: weights, page size, lengths. During a rolling update there may be two.

Identities of pages hold for one generation alone, so a request is hashed for one and placed within it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from baton.openai import ServedModel
from baton.state import WorkerLease
from baton.state.lease import layout_of


class Kind(NamedTuple):
    """What workers must agree on to be of one generation."""

    fingerprint: str
    page_size: int

    @property
    def layout(self) -> str:
        """As leases have it."""
        return layout_of(self.fingerprint, self.page_size)


@dataclass(frozen=True, slots=True)
class Generation:
    kind: Kind
    model: ServedModel
    """As its pods serve it: the shortest length, the smallest vocabulary."""


def kind_of(lease: WorkerLease) -> Kind:
    return Kind(lease.model_fingerprint, lease.page_size)


class Catalog:
    """Makes generations of leases. `base` brings tokenizer and templates; `names` may be empty."""

    def __init__(self, base: ServedModel, names: tuple[str, ...]) -> None:
        self._base = base
        self._names = names
        self._made: Generation | None = None

    def __repr__(self) -> str:
        return f"Catalog({self._made.model.names if self._made else 'nobody yet'})"

    @property
    def last(self) -> Generation | None:
        """The one that most requests went to lately, also when nobody of it lives any more."""
        return self._made

    def current(self, leases: Mapping[str, WorkerLease]) -> Generation | None:
        """Of most of the workers that take requests; None when there are none."""
        taking = [one for one in leases.values() if one.role != "prefill" and not one.draining]
        if not taking:
            return None
        counts = Counter(map(kind_of, taking))
        made = self._made.kind if self._made else None
        # The one before wins a tie: half an update is no reason to leave the caches that are warm.
        kind = max(counts, key=lambda one: (counts[one], one == made, one))
        self._made = self._make(kind, [one for one in taking if kind_of(one) == kind])
        return self._made

    def other(self, leases: Mapping[str, WorkerLease], without: Kind) -> Generation | None:
        """The largest besides one of which nobody answers."""
        rest = {id: one for id, one in leases.items() if kind_of(one) != without}
        return Catalog(self._base, self._names).current(rest)

    def _make(self, kind: Kind, leases: list[WorkerLease]) -> Generation:
        length = min((one.max_model_len for one in leases if one.max_model_len), default=0)
        vocabulary = min((one.vocabulary for one in leases if one.vocabulary), default=0)
        names = self._names or tuple(dict.fromkeys(one.model for one in leases))
        model = replace(
            self._base,
            names=names,
            max_length=length or 2**31,
            vocabulary=vocabulary or self._base.tokenizer.size,
        )
        made = Generation(kind, model)
        return self._made if made == self._made and self._made is not None else made
