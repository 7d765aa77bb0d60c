"""What one HTTP request asks of this pod, whoever sent it: a client, or a router that has read it already.

Endpoints make a `Work` and open a `Generation` around it; from there on the two are served alike. What a
router sends is checked here as far as an answer depends on it; lengths and sampling are the engine's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from baton.core.errors import InvalidField, Refused
from baton.core.types import Request
from baton.openai import Asked, Form, Had, Prompt, Shape
from baton.protocol.engine import EngineFacts
from baton.protocol.placed import Placed
from baton.state.lease import layout_of
from baton.tokens.identity import extend_identities


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    shape: Shape
    requests: tuple[Request, ...]
    """One for each choice, in order, with ids that are new here."""
    prompts: tuple[Prompt, ...]
    """One for each choice."""
    ended: frozenset[int] = frozenset()
    """Choices that the client has to their end."""
    resumes: bool = False
    """Another pod began to answer."""
    had: Had | None = None
    """What the client of the only choice has of it, by count and digest alone."""
    prefill: tuple[str, ...] | None = None
    """Who is to compute the prompts, best first; empty for this pod, None for anybody."""
    lender: str = ""
    """A pod that holds more of the prompts' prefix than those."""
    timeline: bool = False
    forms: tuple[Form, ...] = ()
    """What is to be compiled before it begins; a router has done so."""

    @property
    def stream(self) -> bool:
        return self.shape.stream


def of_asked(
    asked: Asked, requests: Sequence[Request], *, had: Had | None = None, timeline: bool = False
) -> Work:
    """As a client asked for it; one that comes back has some of it."""
    prompts = tuple(asked.prompts[index // asked.shape.n] for index in range(len(requests)))
    return Work(
        shape=asked.shape, requests=tuple(requests), prompts=prompts, had=had, timeline=timeline,
        forms=asked.forms,
    )  # fmt: skip


def of_placed(placed: Placed, id: str, facts: EngineFacts) -> Work:
    """As a router sent it; `id` is this pod's own for it. InvalidField; Refused where it is for a pod
    that was here before."""
    if placed.layout not in ("", layout_of(facts.fingerprint.hex(), facts.page_size)):
        raise Refused("this pod serves another model, or keeps other pages, than it was asked for")
    _check(placed, facts)
    requests = tuple(
        replace(one, id=f"{id}-{index}", identities=_identities(one, facts.page_size))
        for index, one in enumerate(placed.requests)
    )
    prompts = tuple(
        Prompt(one.token_ids, placed.texts[index // placed.shape.n])
        for index, one in enumerate(placed.requests)
    )
    return Work(
        shape=placed.shape, requests=requests, prompts=prompts, ended=frozenset(placed.ended),
        resumes=placed.resumes, had=placed.had, prefill=placed.prefill, lender=placed.lender,
        timeline=placed.timeline,
    )  # fmt: skip


def _identities(request: Request, page_size: int) -> tuple[bytes, ...]:
    """Those of the prompt, and on over what was generated: all of it is found in caches by them."""
    before = request.identities
    tokens = (*request.token_ids, *request.generated)[len(before) * page_size :]
    return before + extend_identities(before, tokens, page_size, request.salt)


def _check(placed: Placed, facts: EngineFacts) -> None:
    shape, count = placed.shape, len(placed.requests)
    if not count or shape.n < 1 or count % shape.n:
        raise InvalidField("requests", f"{count} of them for answers with {shape.n} choices to a prompt")
    if len(placed.texts) != count // shape.n:
        raise InvalidField("texts", f"{len(placed.texts)} for {count // shape.n} prompts")
    if any(not 0 <= index < count for index in placed.ended):
        raise InvalidField("ended", f"names a choice that is none of {count}")
    resumed = placed.ended or any(one.generated for one in placed.requests)
    if resumed and not shape.stream:
        raise InvalidField("generated", "only a stream can go on from where it was lost")
    if placed.had is not None and (resumed or count > 1 or not shape.stream):
        raise InvalidField("had", "is of a stream's only choice, from its beginning")
    for index, one in enumerate(placed.requests):
        _check_request(one, f"requests[{index}]", facts)


def _check_request(request: Request, path: str, facts: EngineFacts) -> None:
    for name in ("token_ids", "generated"):
        ids = getattr(request, name)
        if ids and not 0 <= min(ids) <= max(ids) < facts.vocab:
            raise InvalidField(f"{path}.{name}", f"has a token id outside 0 to {facts.vocab - 1}")
    if not request.token_ids:
        raise InvalidField(f"{path}.token_ids", "is empty")
    if request.sampling.n != 1:
        raise InvalidField(
            f"{path}.sampling.n", f"must be 1, not {request.sampling.n}: a request is a choice"
        )
    pages = len(request.token_ids) // facts.page_size
    if len(request.identities) not in (0, pages):
        wrong = f"{len(request.identities)} for {pages} full pages of {facts.page_size} tokens"
        raise InvalidField(f"{path}.identities", wrong)
