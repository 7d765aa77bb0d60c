"""An engine whose caller does not wait for the device: what comes meanwhile is seen to at once."""

from __future__ import annotations

import random

import numpy as np
from tests.engine.test_scheduler import VOCAB, engine, prompts, request, run

from baton.engine.batch import Batch, Outcome
from baton.engine.flight import Flight
from baton.engine.loop import Engine
from baton.engine.sequence import Leg
from baton.testing.mirror import MirrorRunner, continuation


class Slow:
    """A mirror whose steps are ready only when it says so, in order."""

    def __init__(self, inner: MirrorRunner) -> None:
        self.inner = inner
        self.launched: list[_Held] = []
        self.done = 0
        """Steps that are ready."""

    def launch(self, batch: Batch) -> Flight:
        self.launched.append(_Held(self, len(self.launched), self.inner.launch(batch)))
        return self.launched[-1]

    def close(self) -> None: ...


class _Held:
    def __init__(self, runner: Slow, number: int, flight: Flight) -> None:
        self.runner, self.number, self.flight = runner, number, flight

    def ready(self, within_s: float = 0.0) -> bool:
        return self.number < self.runner.done

    def result(self) -> Outcome:
        assert self.ready(), "the engine waited for a step that is still in flight"
        return self.flight.result()


def slow(**limits: object) -> tuple[Engine, Slow]:
    made = engine(**limits)  # type: ignore[arg-type]
    runner = Slow(made.runner)  # type: ignore[arg-type]
    return Engine(made.scheduler, runner, overlap=True), runner


def test_pages_are_reserved_and_first_tokens_told_while_a_step_is_in_flight() -> None:
    served, runner = slow(pages=64)
    served.submit(request("busy", [1, 2, 3], 20))
    for _ in range(3):
        served.step(patient=False)
    assert served.flying == 2 and len(runner.launched) == 2, "one step ahead, and no further"
    served.intake.ask(request("asked", list(range(9)), 5), "asked/1")
    happened = served.step(patient=False)
    assert [one.id for one in happened.reserved] == ["asked"]
    served.intake.first_token("asked/1", 7, None, ())
    assert [update.token for update in served.step(patient=False).updates] == [7]
    assert len(runner.launched) == 2, "nothing was launched or absorbed meanwhile"


def test_a_row_that_changes_hands_between_two_launches_is_told_once() -> None:
    """Of two words on one row in a batch, a GPU takes either: the second would have the first one's seed."""
    served, runner = slow(pages=64, max_running=2)
    served.submit(request("busy", [1, 2, 3], 20))
    for _ in range(3):
        served.step(patient=False)
    for number, id in enumerate(("left", "next")):
        served.intake.ask(request(id, [5 + number] * 9, 5, seed=number), f"{id}/1")
        served.step(patient=False)
        served.intake.first_token(f"{id}/1", 7, None, ())
        served.intake.landed(f"{id}/1")
        served.step(patient=False)
        assert served.load().running == 2
        if id == "left":
            served.abort(id)
    batches: list[Batch] = []
    served.announce = batches.append
    runner.done += 1
    served.step(patient=False)
    served.step(patient=False)
    assert [(one.row, one.sampling.seed) for one in batches[0].fresh] == [(2, 1)]


def test_who_has_arrived_gets_the_row_of_who_cannot_go_on() -> None:
    """With one row, the sequence in it waits for pages and those of the next one for the row."""
    served = engine(pages=12, max_running=1)
    served.scheduler.headroom.share = 0.1
    served.submit(request("runs", [1] * 4, 40))
    told = served.step().updates + served.step().updates
    served.intake.ask(request("arrives", list(range(20)), 5), "arrives/1")
    happened = served.step()
    told += happened.updates
    (reserved,) = happened.reserved
    runner = served.runner
    assert isinstance(runner, MirrorRunner)
    runner.pool[list(reserved.pages)] = np.arange(20).reshape(5, 4)  # what the writer's pages hold
    first = continuation(list(range(20)), 1, VOCAB)[0]
    served.intake.first_token("arrives/1", first, None, ())
    served.intake.landed("arrives/1")
    for _ in range(200):
        told += served.step().updates
    tokens = {id: [u.token for u in told if u.id == id] for id in ("runs", "arrives")}
    assert tokens["arrives"] == continuation(list(range(20)), 5, VOCAB)
    assert tokens["runs"] == continuation([1] * 4, 40, VOCAB) and served.idle
    served.scheduler.check_integrity()


def test_prompts_that_have_landed_in_part_do_not_wait_for_each_others_pages() -> None:
    """Both writers were lost, and neither prompt's rest finds room beside the other's beginning."""
    served = engine(pages=12)
    asked = {"one": (list(range(32)), 4), "two": (list(range(40, 68)), 3)}
    runner = served.runner
    assert isinstance(runner, MirrorRunner)
    for id, (prompt, landed) in asked.items():
        served.intake.ask(request(id, prompt, 4), f"{id}/1")
        if id == "two":  # it takes what the first one's writer leaves
            served.intake.over("one/1")
        (reserved,) = served.step().reserved
        runner.pool[list(reserved.pages[:landed])] = np.reshape(prompt[: landed * 4], (landed, 4))
        served.intake.progress(f"{id}/1", landed)
        served.intake.local(id)
    served.intake.over("two/1")
    assert run(served, limit=200) == {id: continuation(prompt, 4, VOCAB) for id, (prompt, _) in asked.items()}


def test_impatience_changes_no_token() -> None:
    chance = random.Random(3)
    served, runner = slow(pages=48, max_running=5)
    asked = {str(i): prompt for i, prompt in enumerate(prompts(30, seed=4, longest=40))}
    waiting, tokens = list(asked), {id: [] for id in asked}
    while waiting or not served.idle:
        if waiting and chance.random() < 0.3:
            served.submit(request(id := waiting.pop(), asked[id], 12))
        if chance.random() < 0.5 and runner.done < len(runner.launched):
            runner.done += 1
        for update in served.step(patient=False).updates:
            tokens[update.id].append(update.token)
    served.scheduler.check_integrity()
    assert tokens == {id: continuation(prompt, 12, VOCAB) for id, prompt in asked.items()}


def test_a_leg_that_fills_a_gpu_has_a_step_of_its_own() -> None:
    """Whoever waits for the first of two prompts does not wait for the second; short ones go together."""
    served = engine(pages=900, prefill_budget=2048, max_model_len=1600)
    lengths = {"long": 600, "next": 600, "a": 100, "b": 100}
    for begin, (id, length) in enumerate(lengths.items()):
        prompt = [(begin + i * i) % VOCAB for i in range(length)]
        pages = tuple(range(1, 1 + -(-length // 4)))
        served.legs.submit(request(id, prompt, 1), Leg(id, "peer", 0, pages))
    steps = []
    while (launch := served.scheduler.next()) is not None:
        steps.append([span.sequence.request.id for span in launch.spans])
    assert steps == [["long"], ["next"], ["a", "b"]]
