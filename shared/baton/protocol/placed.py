"""What a router sends a decode (or unified) pod: a request that is understood, tokenized, hashed and placed.

    router ──POST /placed (msgpack: Placed)──► pod
           ◄──OpenAI events, or one whole answer──

Everything particular to a client ends at the router: the pod is told how the answer must look (`shape`) and
what to run, and its answer is relayed byte for byte. Durations, never clock times, cross hosts.
"""

from __future__ import annotations

import dataclasses

import msgspec
from msgspec.structs import replace

from baton.core.errors import ProtocolMismatch
from baton.core.types import Request
from baton.openai.bookmark import Had
from baton.openai.shape import Shape

VERSION = 3
PATH = "/placed"
CONTENT_TYPE = "application/vnd.baton.placed+msgpack"

REFUSED_HEADER = "x-baton-refused"
"""On an answer that nothing was done for: the error's code. Whoever sent it may send it elsewhere."""


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    version: int = VERSION
    id: str
    """The router's id for the whole; logs of every pod carry it."""
    shape: Shape
    requests: tuple[Request, ...]
    """One per choice, in order, seeded and with ids that are new at every attempt. A request that resumes
    says in `generated` what its client has already."""
    layout: str = ""
    """The layout fingerprint (model and page) that the pod's lease told: a pod of another one refuses, since
    a lease may be that of the pod's predecessor. Empty where nobody looked."""
    texts: tuple[str | None, ...]
    """Of each prompt, where the client sent text."""
    ended: tuple[int, ...] = ()
    """Choices whose finish reason the client has: nothing of them is to be generated or sent again."""
    resumes: bool = False
    """An earlier attempt was lost with its pod, after its first event."""
    had: Had | None = None
    """What the client of the only choice has of it, where nobody knows the tokens: they are to be computed
    again, compared, and not told."""
    prefill: tuple[str, ...] | None = None
    """Ids of prefill pods to ask, best first; empty to compute here; None to let the pod choose."""
    lender: str = ""
    """A pod that holds more of the prompt's prefix than those above: its pages may be read instead of
    computed. Empty where none does."""
    grammars: tuple[str, ...] = ()
    """On the wire: what answers are to follow. Requests say the place in it, in decimal."""
    timeline: bool = False
    """Tell when what happened: an event before `[DONE]`, or the answer's `baton`, carries it."""


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Placed] = msgspec.msgpack.Decoder(Placed)


def encode(placed: Placed) -> bytes:
    return _encoder.encode(_outbound(placed))


def read(data: bytes) -> Placed:
    try:
        placed = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProtocolMismatch(f"cannot read a placed request of {len(data)} bytes: {error}") from error
    if placed.version != VERSION:
        raise ProtocolMismatch(f"the router speaks version {placed.version}, this pod {VERSION}")
    return _inbound(placed)


def _outbound(placed: Placed) -> Placed:
    """Each grammar once: all choices of a request may have the same, of many kilobytes."""
    known = dict.fromkeys([one.sampling.grammar for one in placed.requests if one.sampling.grammar])
    if not known:
        return placed
    places = {grammar: str(place) for place, grammar in enumerate(known)}
    requests = tuple([_following(one, places.get(one.sampling.grammar, "")) for one in placed.requests])
    return replace(placed, requests=requests, grammars=tuple(known))


def _inbound(placed: Placed) -> Placed:
    if not placed.grammars:
        return placed
    places = {"": "", **{str(place): grammar for place, grammar in enumerate(placed.grammars)}}
    try:
        requests = tuple([_following(one, places[one.sampling.grammar]) for one in placed.requests])
    except KeyError as error:
        raise ProtocolMismatch(f"a request follows grammar {error}, of {len(placed.grammars)}") from error
    return replace(placed, requests=requests, grammars=())


def _following(request: Request, grammar: str) -> Request:
    sampling = request.sampling
    if sampling.grammar == grammar:
        return request
    return dataclasses.replace(request, sampling=dataclasses.replace(sampling, grammar=grammar))
