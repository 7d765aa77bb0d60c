"""From an HTTP body to what an engine can run: one function per endpoint that generates.

A service calls `read_chat`, `read_completion` or `read_generate` with the bytes it received, and gets
everything checked, tokenized and mapped, or an `InvalidRequest` that says what to change. `Asked.requests`
then makes one core `Request` per sequence; `seeded` comes before it, since an engine takes no seed for 0.
Nothing here does I/O; long prompts take milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any

from baton.core.errors import InvalidField, UnsupportedField
from baton.core.types import Request, SamplingParams
from baton.openai.bookmark import HEADER, ticket_of
from baton.openai.calls import Style
from baton.openai.decode import convert_field, decode_body
from baton.openai.form import Form, forced_calls, form_of, form_of_generate
from baton.openai.prompt import MAX_PROMPTS, chat_prompt, completion_prompts, generate_prompts, is_batch
from baton.openai.reasoning import reasoning_of
from baton.openai.requests import (
    ChatRequest,
    CompletionRequest,
    GenerateRequest,
    GenerateSampling,
    SampledBody,
)
from baton.openai.sampling import chat_sampling, completion_sampling, generate_sampling
from baton.openai.served import ServedModel
from baton.openai.shape import Endpoint, Prompt, Shape
from baton.tokens.identity import page_identities, root_salt

_PREFIX = {Endpoint.CHAT: "chatcmpl-", Endpoint.COMPLETION: "cmpl-"}
_WHOLE = "log-probabilities of the prompt come with a whole answer, not in a stream"
_LONGEST_ID = 128
_SEEDS = 2**63
_MOST_FORMS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One HTTP request, understood."""

    id: str
    """The service's own id for it; unlike the client's, it is unique. A request that continues an answer has
    the id of the one that began it."""
    shape: Shape
    prompts: tuple[Prompt, ...]
    sampling: tuple[SamplingParams, ...]
    """One per prompt."""
    forms: tuple[Form, ...] = ()
    """What grammars they have came in. A service has them compiled before it asks anybody."""
    priority: int = 0
    cache_salt: str = ""

    @property
    def field(self) -> str:
        """What its prompts came in."""
        match self.shape.endpoint:
            case Endpoint.CHAT:
                return "messages"
            case Endpoint.COMPLETION:
                return "prompt"
            case Endpoint.GENERATE:
                return "input_ids" if self.prompts[0].text is None else "text"

    @property
    def continuable(self) -> bool:
        """Whether a client may come back for the rest: an event's id tells of one choice."""
        shape = self.shape
        return shape.stream and shape.endpoint is not Endpoint.GENERATE and len(self.prompts) * shape.n == 1

    def check_continued(self) -> None:
        """InvalidField where a client came back for something else."""
        if not self.shape.stream:
            raise InvalidField(HEADER, "only a stream can be continued: set stream to true")
        if not self.continuable:
            raise InvalidField(HEADER, "only one choice of chat or completions can be continued")

    def shape_of(self, fingerprint: str) -> Shape:
        """The shape, with what the client needs to come back with; `fingerprint` is the model's."""
        if not self.continuable:
            return self.shape
        return replace(self.shape, ticket=ticket_of(self.id, fingerprint))

    def seeded(self) -> Asked:
        """With a seed wherever the client gave none: drawn from the id, so that whoever runs a sequence again
        (another pod, after the first was lost; another router, when the client comes back) draws the same
        tokens."""
        if all(one.seed is not None for one in self.sampling):
            return self
        drawn = tuple(
            replace(one, seed=_seed(self.id, place)) if one.seed is None else one
            for place, one in enumerate(self.sampling)
        )
        return replace(self, sampling=drawn)

    def requests(self, page_size: int, fingerprint: str) -> tuple[Request, ...]:
        """One per sequence, in the order of the choices. `fingerprint` is the model's."""
        salt = root_salt(fingerprint, cache_salt=self.cache_salt)
        made: list[Request] = []
        for prompt, sampling in zip(self.prompts, self.sampling, strict=True):
            identities = page_identities(prompt.token_ids, page_size, salt)
            for place in range(sampling.n):
                made.append(
                    Request(
                        id=f"{self.id}-{len(made)}",
                        token_ids=prompt.token_ids,
                        identities=identities,
                        sampling=_single(sampling, place),
                        priority=self.priority,
                        salt=salt,
                    )
                )
        return tuple(made)


def read_chat(body: bytes, model: ServedModel, *, id: str, created: int) -> Asked:
    """POST /v1/chat/completions. `id` is the service's, `created` Unix time in seconds."""
    request = decode_body(body, ChatRequest)
    name = _checked(request, model)
    prompt = chat_prompt(request, model)
    continued = request.messages[-1].get("content") if request.continue_final_message else ""
    form = _form(request, model, prompt.text or "", continued)
    sampling = chat_sampling(request, model.defaults, form.grammar)
    asked = _asked(request, model, name, Endpoint.CHAT, id, created, "messages", (prompt,), sampling)
    apart = model.thinks and request.separate_reasoning is not False
    # Tools may be called by whoever may answer as it likes, or must call.
    free = request.tool_choice != "none" and (not form.grammar or request.tool_choice not in (None, "auto"))
    calls = model.calls if request.tools and free else None
    shape = replace(
        asked.shape,
        reasoning=reasoning_of(prompt.text or "", continued) if apart else None,
        thoughts=request.include_reasoning is not False,
        thought_whole=request.stream_reasoning is False,
        calls=calls,
        tools=_tool_names(request) if calls not in (None, Style.TAGGED) else (),
        one_call=request.parallel_tool_calls is False or model.one_call,
    )
    return replace(asked, shape=shape, forms=_some(form))


def read_completion(body: bytes, model: ServedModel, *, id: str, created: int) -> Asked:
    """POST /v1/completions"""
    request = decode_body(body, CompletionRequest)
    name = _checked(request, model)
    form = form_of(request)
    sampling = completion_sampling(request, model.defaults, form.grammar)
    prompts = completion_prompts(request, model)
    asked = _asked(request, model, name, Endpoint.COMPLETION, id, created, "prompt", prompts, sampling)
    return replace(asked, forms=_some(form))


def read_generate(body: bytes, model: ServedModel, *, id: str, created: int) -> Asked:
    """POST /generate"""
    request = decode_body(body, GenerateRequest)
    request.check_served()
    prompts = generate_prompts(request, model)
    sampling, forms = _generate_sampling(request, model, len(prompts))
    if request.stream and any(one.prompt_logprobs is not None for one in sampling):
        raise UnsupportedField("logprob_start_len", _WHOLE)
    _check_choices(len(prompts), sampling[0].n, "sampling_params.n")
    field = "text" if request.input_ids is None else "input_ids"
    for prompt, one in zip(prompts, sampling, strict=True):
        _check(model, prompt, one, field, "sampling_params.")
    shape = Shape(
        endpoint=Endpoint.GENERATE,
        id=_answer_id(request.rid, "rid", "", id),
        model=model.names[0],
        created=created,
        n=sampling[0].n,
        stream=bool(request.stream),
        batched=is_batch(request.text or request.input_ids),
        logprob_text=bool(request.return_text_in_logprobs),
        logprob_start=max(0, request.logprob_start_len or 0),
    )
    return Asked(
        id=id,
        shape=shape,
        prompts=prompts,
        sampling=sampling,
        forms=forms,
        priority=request.priority or 0,
        cache_salt=request.cache_salt or "",
    )


def _form(request: ChatRequest, model: ServedModel, prompt: str, continued: object) -> Form:
    """By a field of its own, or since a tool is to be called; of a model that thinks, behind the thought."""
    form, calls = form_of(request), forced_calls(request, model)
    if form.grammar and calls.grammar:
        raise InvalidField("tool_choice", f"asks for a call, and {form.field} for an answer in its form")
    form = form if form.grammar else calls
    return form._replace(grammar=model.after_thought(*form, prompt, continued))


def _tool_names(request: ChatRequest) -> tuple[str, ...]:
    return tuple([tool["function"]["name"] for tool in request.tools or ()])


def _some(*forms: Form) -> tuple[Form, ...]:
    return tuple([form for form in forms if form.grammar])


def _checked(request: SampledBody, model: ServedModel) -> str:
    """What is cheap to refuse, before any prompt is tokenized. The model's name for the answer."""
    name = model.name(request.model)
    request.check_served()
    if request.stream_options is not None and not request.stream:
        raise InvalidField("stream_options", "is only allowed when stream is true")
    echo = isinstance(request, CompletionRequest) and request.echo
    if request.stream and request.prompt_logprobs is not None and not echo:
        raise UnsupportedField("prompt_logprobs", _WHOLE)
    return name


def _asked(
    request: SampledBody,
    model: ServedModel,
    name: str,
    endpoint: Endpoint,
    id: str,
    created: int,
    field: str,
    prompts: tuple[Prompt, ...],
    sampling: SamplingParams,
) -> Asked:
    _check_choices(len(prompts), sampling.n, "n")
    for prompt in prompts:
        _check(model, prompt, sampling, field)
    options = request.stream_options
    given = "request_id" if request.request_id else "rid"
    shape = Shape(
        endpoint=endpoint,
        id=_answer_id(request.request_id or request.rid, given, _PREFIX[endpoint], id),
        model=name,
        created=created,
        n=sampling.n,
        stream=bool(request.stream),
        include_usage=bool(options and options.include_usage),
        usage_in_chunks=bool(options and options.continuous_usage_stats),
        echo=isinstance(request, CompletionRequest) and bool(request.echo),
        return_token_ids=bool(request.return_token_ids),
        tokens_as_ids=bool(request.return_tokens_as_token_ids),
    )
    return Asked(
        id=id,
        shape=shape,
        prompts=prompts,
        sampling=(sampling,) * len(prompts),
        priority=request.priority or 0,
        cache_salt=request.cache_salt or "",
    )


def _answer_id(given: str | None, field: str, prefix: str, id: str) -> str:
    if given is None:
        return prefix + id
    if not 1 <= len(given) <= _LONGEST_ID or not given.isprintable():
        raise InvalidField(field, f"need 1 to {_LONGEST_ID} printable characters")
    return given


def _generate_sampling(
    request: GenerateRequest, model: ServedModel, prompts: int
) -> tuple[tuple[SamplingParams, ...], tuple[Form, ...]]:
    given, path = request.sampling_params, "sampling_params"

    def one(fields: Any, path: str) -> tuple[SamplingParams, Form]:
        read = convert_field(fields, GenerateSampling, path)
        form = form_of_generate(read, path)
        return generate_sampling(request, read, model.defaults, form.grammar, path), form

    if not isinstance(given, list):
        sampling, form = one(given or {}, path)
        return (sampling,) * prompts, _some(form)
    if len(given) != prompts:
        raise InvalidField(path, f"{len(given)} of them for {prompts} prompts")
    made = [one(fields, f"{path}[{place}]") for place, fields in enumerate(given)]
    if len({sampling.grammar for sampling, _ in made}) > _MOST_FORMS:
        raise InvalidField(path, f"at most {_MOST_FORMS} different forms in one request")
    if len({sampling.n for sampling, _ in made}) > 1:
        raise InvalidField(path, "n must be the same for every prompt")
    return tuple([sampling for sampling, _ in made]), _some(*[form for _, form in made])


def _check_choices(prompts: int, n: int, field: str) -> None:
    if prompts * n > MAX_PROMPTS:
        raise InvalidField(field, f"{prompts} prompts times n {n} exceed {MAX_PROMPTS} choices")


def _check(model: ServedModel, prompt: Prompt, sampling: SamplingParams, field: str, path: str = "") -> None:
    """What depends on the model: lengths, and the ids that sampling names; `path` is what leads to those."""
    model.check_length(len(prompt.token_ids), sampling.max_tokens, field)
    check = model.tokenizer.check_ids
    check(sampling.stop_token_ids, f"{path}stop_token_ids", model.vocabulary)
    check([token for token, _ in sampling.logit_bias], f"{path}logit_bias", model.vocabulary)


def _seed(id: str, place: int) -> int:
    drawn = blake2b(f"{id}/{place}".encode(), digest_size=8, person=b"baton.seed")
    return int.from_bytes(drawn.digest()) % _SEEDS


def _single(sampling: SamplingParams, place: int) -> SamplingParams:
    """The parameters of one of n sequences: with a seed, each has its own, or all would be equal."""
    if sampling.n == 1:
        return sampling
    seed = sampling.seed
    if seed is not None and place:
        seed = (seed + place) % _SEEDS
    return replace(sampling, n=1, seed=seed)
