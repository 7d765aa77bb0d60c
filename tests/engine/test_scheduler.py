"""The scheduler against a runner that mirrors token ids: every page mistake becomes a wrong token."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from baton.cache import make_cache
from baton.cache.pages import PageAllocator
from baton.core.errors import DeadlineExceeded, InvalidField, PromptTooLong, QueueFull
from baton.core.types import Request, SamplingParams
from baton.engine.holdings import Holdings
from baton.engine.limits import Limits, Mixing
from baton.engine.loop import Engine
from baton.engine.policy import policy_named
from baton.engine.scheduler import Scheduler
from baton.engine.sequence import NEVER
from baton.testing.mirror import MirrorRunner, continuation
from baton.tokens.identity import page_identities

VOCAB = 97


def engine(
    *, pages: int = 64, page_size: int = 4, cache: str = "radix", overlap: bool = True, policy: str = "fcfs",
    eos: frozenset[int] = frozenset(), **limits: object,
) -> Engine:  # fmt: skip
    longest = min(200, (pages - 1) * page_size)
    bounds = Limits(
        max_model_len=longest,
        max_running=8,
        max_queued=100_000,
        prefill_budget=32,
        mixing=Mixing.NEVER,
        lines=16,
        vocab=VOCAB,
        eos=eos,
    )
    holdings = Holdings(PageAllocator(pages), make_cache(cache), page_size)
    scheduler = Scheduler(replace(bounds, **limits), holdings, policy_named(policy))  # type: ignore[arg-type]
    runner = MirrorRunner(pages, page_size, scheduler.limits.max_running + 1, longest // page_size + 2, VOCAB)
    return Engine(scheduler, runner, overlap=overlap)  # type: ignore[arg-type]


def request(
    id: str, prompt: list[int], tokens: int, *, page_size: int = 4, priority: int = 0,
    generated: Sequence[int] = (), **sampling: object,
) -> Request:  # fmt: skip
    params = SamplingParams(max_tokens=tokens, **sampling)  # type: ignore[arg-type]
    return Request(
        id=id, token_ids=tuple(prompt), generated=tuple(generated),
        identities=page_identities(prompt, page_size), sampling=params, priority=priority,
    )  # fmt: skip


def run(served: Engine, limit: int = 100_000) -> dict[str, list[int]]:
    """Step until idle; the tokens of every request."""
    tokens: dict[str, list[int]] = {}
    for _ in range(limit):
        for update in served.step().updates:
            if update.token is not None:
                tokens.setdefault(update.id, []).append(update.token)
        if served.idle:
            served.scheduler.check_integrity()
            return tokens
    raise AssertionError(f"not idle after {limit} steps: {served!r}")


def prompts(count: int, seed: int, longest: int = 60) -> list[list[int]]:
    chance = random.Random(seed)
    shared = [chance.randrange(VOCAB) for _ in range(longest)]
    made = []
    for _ in range(count):
        common = chance.randrange(0, longest - 1)
        own = chance.randrange(1, longest - common + 1)
        made.append(shared[:common] + [chance.randrange(VOCAB) for _ in range(own)])
    return made


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("cache", ["radix", "naive"])
@pytest.mark.parametrize(("mixed", "policy"), [(False, "fcfs"), (True, "fcfs"), (True, "lof")])
@pytest.mark.parametrize("pages", [40, 400])
@pytest.mark.parametrize("page_size", [1, 4])
def test_tokens_are_those_of_an_undisturbed_run(
    overlap: bool, cache: str, mixed: bool, policy: str, pages: int, page_size: int
) -> None:
    served = engine(
        pages=pages * 4 // page_size,
        page_size=page_size,
        cache=cache,
        policy=policy,
        overlap=overlap,
        mixing=Mixing.ALWAYS if mixed else Mixing.NEVER,
        prefill_budget=16,
    )
    made = prompts(40, seed=pages)
    for i, prompt in enumerate(made):
        served.submit(request(f"r{i}", prompt, 1 + i * 2, page_size=page_size))
    tokens = run(served)
    for i, prompt in enumerate(made):
        assert tokens[f"r{i}"] == continuation(prompt, 1 + i * 2, VOCAB), f"r{i}"
    if pages == 40:
        assert served.scheduler.retractions > 0, "the small pool was meant to force retractions"


@pytest.mark.parametrize("policy", ["fcfs", "lof", "lpm", "dfs-weight", "priority"])
def test_every_policy_serves_everything(policy: str) -> None:
    served = engine(policy=policy, pages=60)
    made = prompts(30, seed=5)
    for i, prompt in enumerate(made):
        served.submit(request(f"r{i}", prompt, 10, priority=i % 3))
    tokens = run(served)
    assert all(tokens[f"r{i}"] == continuation(p, 10, VOCAB) for i, p in enumerate(made))


def test_urgent_requests_start_first() -> None:
    served = engine(policy="priority", max_running=1)
    for i, priority in enumerate([5, 1, 3]):
        served.submit(request(f"r{i}", [i + 1] * 9, 4, priority=priority))
    assert list(run(served)) == ["r1", "r2", "r0"]


def test_deadlines_order_equals_and_what_cannot_be_met_is_refused_and_holds_nobody_up() -> None:
    served, now = engine(policy="priority", max_running=1), 0.0
    served.scheduler.now = lambda: now
    dues = {"none": NEVER, "soon": 5.0, "first": 2.0, "late": 100.0}
    for i, (id, due) in enumerate(dues.items()):
        served.submit(request(id, [i + 1] * 9, 4), due)
    tokens: dict[str, int] = {}
    refused: list[tuple[str, str | None]] = []
    while not served.idle:
        for update in served.step().updates:
            if update.token is None:
                refused.append((update.id, update.code))
            else:
                tokens[update.id] = tokens.get(update.id, 0) + 1
        if "first" in tokens:
            now = 6.0
    assert list(tokens.items()) == [("first", 4), ("late", 4), ("none", 4)]
    assert refused == [("soon", "deadline_exceeded")]
    served.scheduler.check_integrity()
    with pytest.raises(DeadlineExceeded):
        served.submit(request("past", [1], 1), 5.9)
    served.scheduler.fastest = lambda: 10.0
    with pytest.raises(DeadlineExceeded):
        served.submit(request("long", [90] * 30, 1), now + 2.0)
    served.submit(request("cached", [3] * 9, 1), now + 0.2)  # two pages of three are here: a token is left
    assert run(served)["cached"] == continuation([3] * 9, 1, VOCAB)


def test_a_list_ends_sooner_when_its_longest_answer_does_not_come_last() -> None:
    steps = {}
    for policy in ("fcfs", "lof"):
        served = engine(policy=policy, max_running=4, pages=200)
        for i, count in enumerate([*[10] * 8, 40]):
            served.submit(request(f"r{i}", [i + 1] * 9, count))
        tokens = run(served)
        assert all(len(tokens[f"r{i}"]) == count for i, count in enumerate([*[10] * 8, 40]))
        steps[policy] = served.scheduler.steps
    assert steps["fcfs"] > 55 and steps["lof"] < 50


def test_all_of_a_list_ends_together_where_those_who_run_give_way_to_longer_answers() -> None:
    """No steps but those of the longest answer, and of the prompts that these have no lines for."""
    made = [(list(range(i, i + 20)), 10 + 3 * i) for i in range(24)]
    longest = made[-1][1]
    over = sum(len(prompt) + count for prompt, count in made) - 16 * longest
    steps = {}
    for policy in ("fcfs", "lof"):
        served = engine(
            policy=policy, pages=700, cache="naive", mixing=Mixing.ALWAYS, prefill_budget=64, lines=16,
            max_running=24,
        )  # fmt: skip
        for i, (prompt, count) in enumerate(made):
            served.submit(request(f"r{i}", prompt, count))
        tokens = run(served)
        assert all(tokens[f"r{i}"] == continuation(p, n, VOCAB) for i, (p, n) in enumerate(made))
        steps[policy] = served.scheduler.steps
    assert over > 16, "the prompts were meant not to fit"
    assert steps["lof"] <= longest + over // 64 + 3 < steps["fcfs"]


@pytest.mark.parametrize(
    "counts", [[40] * 8, [40, None], [40, 20] * 300], ids=["full", "unbounded", "more than are looked at"]
)
def test_prompts_come_first_where_answers_leave_no_lines_for_them(counts: list[int | None]) -> None:
    served = engine(policy="lof", pages=400, mixing=Mixing.ALWAYS, prefill_budget=64, lines=8, max_running=8)
    for i, count in enumerate(counts):
        one = request(f"r{i}", [i % 90 + 1] * 20, 1)
        served.submit(replace(one, sampling=SamplingParams(max_tokens=count, ignore_eos=True)))
    launch = served.scheduler.next()
    assert launch is not None and sum(span.tokens for span in launch.spans) == min(20 * len(counts), 64)


@pytest.mark.parametrize("known", [True, False])
def test_steps_are_filled_by_themselves_while_all_lengths_are_known(known: bool) -> None:
    served = engine(policy="lof", pages=400, mixing=Mixing.KNOWN, lines=16, eos=frozenset([3]))
    asked = [request(f"r{i}", [i + 1] * 20, 20 if i else 40, ignore_eos=known or i < 2) for i in range(3)]
    served.submit(asked[0])
    for _ in range(3):
        served.step()
    for one in asked[1:]:
        served.submit(one)
    launch = served.scheduler.next()
    assert launch is not None and len(launch.decodes) == known
    assert sum(span.tokens for span in launch.spans) == (15 if known else 32)


def test_those_who_run_give_way_to_a_prompt_whose_answer_will_be_longer() -> None:
    served = engine(policy="lof", pages=400, mixing=Mixing.ALWAYS, lines=7, max_running=8)
    for i, count in enumerate([90, 85, 84, 83]):
        served.submit(request(f"r{i}", [i + 1] * 30, count))
    gave_way = []
    while not served.idle:
        running = [one.request.id for one in served.scheduler.running if one.unfed]
        steps = served.scheduler.steps
        served.step()
        if served.scheduler.steps > steps and served._flying:
            launch = served._flying[-1][0]
            left_out = set(running) - {one.request.id for one in launch.decodes}
            gave_way += [([span.sequence.request.id for span in launch.spans], left_out)] if left_out else []
    assert all(spans for spans, _ in gave_way), "somebody waited for nobody"
    assert {id for spans, left_out in gave_way if spans == ["r3"] for id in left_out} == {"r0", "r1", "r2"}


def test_who_gives_way_still_ends_while_longer_work_keeps_coming() -> None:
    """Rows bound what is before it: with none free, nobody comes who could be."""
    served = engine(policy="lof", pages=300, mixing=Mixing.ALWAYS, prefill_budget=8, lines=8, max_running=4)
    served.submit(request("short", [1] * 9, 12))
    ended = 0
    for i in range(200):
        if i % 3 == 0:
            served.submit(request(f"long{i}", [2 + i % 50] * 9, 20))
        ended = next((i for u in served.step().updates if u.id == "short" and u.finish), ended)
        if ended:
            break
    assert 0 < ended < 200
    run(served)


def test_longest_cached_prefix_starts_first() -> None:
    served = engine(policy="lpm", max_running=1)
    shared = list(range(20))
    served.submit(request("seed", [*shared, 1], 1))
    run(served)
    served.submit(request("cold", [50] * 20, 2))
    served.submit(request("warm", [*shared, 2], 2))
    assert list(run(served)) == ["warm", "cold"]


def test_branches_are_walked_depth_first_by_demand() -> None:
    served = engine(policy="dfs-weight", prefill_budget=1000)
    left, right = [1] * 8, [2] * 8
    for name, prompt in (("l", left), ("r", right)):
        served.submit(request(name, [*prompt, 3], 1))
    run(served)
    for name, prompt in (("l1", left), ("r1", right), ("r2", right), ("l2", left), ("r3", right)):
        served.submit(request(name, [*prompt, *(ord(c) % 90 for c in name)], 1))
    assert list(run(served)) == ["r1", "r2", "r3", "l1", "l2"]


def test_twins_compute_their_shared_prefix_once() -> None:
    served = engine(pages=200, prefill_budget=1000)
    shared = list(range(40))
    for i in range(4):
        served.submit(request(f"r{i}", [*shared, 60 + i], 1))
    tokens = run(served)
    assert all(tokens[f"r{i}"] == continuation([*shared, 60 + i], 1, VOCAB) for i in range(4))
    assert served.runner.computed == 41 + 3  # type: ignore[attr-defined]


def test_a_second_pass_computes_only_the_last_page() -> None:
    served = engine(pages=200)
    prompt = list(range(42))
    for name in ("first", "second"):
        served.submit(request(name, prompt, 1))
        before = served.runner.computed  # type: ignore[attr-defined]
        run(served)
    assert served.runner.computed - before == 2  # type: ignore[attr-defined]


def test_stop_tokens_end_a_sequence_but_not_before_min_tokens() -> None:
    prompt = [1, 2, 3]
    expected = continuation(prompt, 30, VOCAB)
    eos = frozenset([expected[4]])
    first = expected.index(expected[4])
    for overlap in (False, True):
        served = engine(eos=eos, overlap=overlap)
        served.submit(request("a", prompt, 30))
        served.submit(request("b", prompt, 30, ignore_eos=True))
        tokens = run(served)
        assert tokens["a"] == expected[: first + 1]
        assert tokens["b"] == expected


def test_aborts_at_any_moment_leave_nothing_behind() -> None:
    chance = random.Random(7)
    served = engine(pages=50, max_running=6)
    alive: list[str] = []
    for i in range(400):
        prompt = [chance.randrange(VOCAB) for _ in range(chance.randrange(1, 80))]
        served.submit(request(f"r{i}", prompt, chance.randrange(1, 60)))
        alive.append(f"r{i}")
        for _ in range(chance.randrange(4)):
            served.step()
        if chance.random() < 0.6:
            served.abort(alive.pop(chance.randrange(len(alive))))
    run(served)
    assert served.load().running == 0


def test_soak_of_ten_thousand_requests_ends_with_every_page_free() -> None:
    chance = random.Random(11)
    served = engine(pages=48, max_running=12, prefill_budget=24, mixing=Mixing.ALWAYS)
    expected: dict[str, list[int]] = {}
    tokens: dict[str, list[int]] = {}
    aborted: set[str] = set()
    base = [[chance.randrange(VOCAB) for _ in range(40)] for _ in range(5)]
    for i in range(10_000):
        prompt = chance.choice(base)[: chance.randrange(0, 40)] + [
            chance.randrange(VOCAB) for _ in range(chance.randrange(1, 9))
        ]
        count = chance.randrange(1, 12)
        expected[f"r{i}"] = continuation(prompt, count, VOCAB)
        served.submit(request(f"r{i}", prompt, count))
        if chance.random() < 0.1:
            victim = f"r{chance.randrange(i + 1)}"
            if victim in served.scheduler.sequences:
                aborted.add(victim)
            served.abort(victim)
        for _ in range(2 if len(served.scheduler.waiting) < 50 else 12):
            for update in served.step().updates:
                if update.token is not None:
                    tokens.setdefault(update.id, []).append(update.token)
    for id, more in run(served).items():
        tokens.setdefault(id, []).extend(more)
    wrong = [id for id, want in expected.items() if tokens.get(id, []) != want[: len(tokens.get(id, []))]]
    assert not wrong
    assert all(tokens[id] == want for id, want in expected.items() if id not in aborted)
    holdings = served.scheduler.holdings
    holdings.allocator.give(holdings.cache.evict(holdings.cache.pages))
    assert holdings.allocator.free == holdings.allocator.total - 1
    assert holdings.cache.pages == 0


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("waits", [False, True])
def test_who_has_pages_twice_comes_back_with_them_once(overlap: bool, mixed: bool, waits: bool) -> None:
    """Equal prompts decode equal pages; those of the second are beside the first one's in the cache, and hold
    them there. Alone it needs every page of the pool once."""
    served = engine(pages=12, overlap=overlap, mixing=Mixing.ALWAYS if mixed else Mixing.NEVER)
    tokens = {"short": 20, "long": 28}
    for id, count in tokens.items():
        served.submit(request(id, [1] * 16, count))
    if waits:
        served.submit(request("last", [2] * 20, 5))
    found = run(served, limit=1000)
    assert all(found[id] == continuation([1] * 16, count, VOCAB) for id, count in tokens.items())
    assert served.scheduler.retractions > 0


def test_what_cannot_be_served_is_refused_with_the_field_named() -> None:
    served = engine(max_queued=1)
    with pytest.raises(PromptTooLong, match="prompt: has 300 tokens"):
        served.submit(request("long", [1] * 300, 1))
    with pytest.raises(InvalidField, match="at least one token"):
        served.submit(request("empty", [], 1))
    with pytest.raises(InvalidField, match="outside 0 to 96"):
        served.submit(request("vocab", [97], 1))
    served.submit(request("a", [1], 1))
    with pytest.raises(InvalidField, match="being served already"):
        served.submit(request("a", [1], 1))
    with pytest.raises(QueueFull):
        served.submit(request("b", [1], 1))
