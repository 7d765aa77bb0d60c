"""Hand-overs between real workers on a CPU: the same tokens, nothing left behind, and peers that die."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import socket
import time

import pytest
from tests.checkpoints import Make
from tests.decode.pods import Pods, running

from baton.core.types import SamplingParams
from baton.decode.peer import Peer
from baton.decode.receiver import introduction as hello
from baton.decode.settings import HandoffSettings
from baton.protocol.engine import Pages
from baton.protocol.pods import LAPSE_S

GREEDY = SamplingParams(max_tokens=12, temperature=0.0, ignore_eos=True, seed=1)


def prompts(count: int = 12, seed: int = 3) -> list[list[int]]:
    chance = random.Random(seed)
    shared = [chance.randrange(101) for _ in range(100)]
    made = []
    for i in range(count):
        common = shared[: chance.choice([0, 16, 40, 90])] if i % 2 else []
        made.append(common + [chance.randrange(101) for _ in range(chance.randrange(10, 110))])
    return made


async def unready(peer: Peer) -> None:
    async with asyncio.timeout(8):
        while peer.ready:
            await asyncio.sleep(0.05)


def marks(pods: Pods) -> set[str]:
    return {what for timeline in pods.timelines.values() for what, _ in timeline.marks}


@pytest.mark.parametrize(("prefill", "decode"), [(1, 1), (2, 1), (1, 2), (4, 2), (2, 4)])
def test_every_split_gives_the_tokens_of_one_worker(prefill: int, decode: int, checkpoint: Make) -> None:
    """Uncached, then cached on both sides, against the prefill worker alone, which is proven exact."""

    async def check() -> None:
        async with running(
            checkpoint("qwen3").directory, prefill_ranks=[prefill], decode_ranks=decode
        ) as pods:
            handed = await pods.generate(prompts(), GREEDY)
            steps = ["queued", "reserved", "asked", "prefill queued", "prefill started", "first token"]
            assert {*steps, "chunk landed", "landed", "merged"} <= marks(pods), "nothing was handed over"
            for timeline in pods.timelines.values():
                at = {what: when for what, when in reversed(timeline.marks)}
                if timeline.handed:
                    assert timeline.prefill
                    assert sorted(steps, key=at.__getitem__) == steps and at["landed"] <= at["merged"]
            again = await pods.generate(prompts(), GREEDY)
            alone = await pods.generate(prompts(), GREEDY, through=pods.prefills[0])
            assert handed == alone
            assert again == alone
            await pods.settled()
            assert not pods.handoffs.failures
            told = pods.metrics.render().decode()
            assert re.search(r"^baton_handoff_seconds_count [1-9]", told, re.M), told
            assert re.search(r"^baton_handoff_bytes_total [1-9]", told, re.M)
            assert re.search(r"^baton_handoff_inflight 0", told, re.M)
            assert re.search(r"^baton_peer_bandwidth_bytes_per_second\{.*\} [1-9]", told, re.M)

    asyncio.run(check())


def test_pods_that_have_ipv6_alone_hand_over(checkpoint: Make) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            pytest.skip("no IPv6 on this machine")

    async def check() -> None:
        async with running(checkpoint("qwen3").directory, listen="tcp://[::1]:*") as pods:
            handed = await pods.generate(prompts(4), GREEDY)
            assert "landed" in marks(pods), "nothing was handed over"
            assert handed == await pods.generate(prompts(4), GREEDY, through=pods.prefills[0])

    asyncio.run(check())


def test_what_a_prefill_worker_lacks_and_another_holds_is_read_instead_of_computed(
    checkpoint: Make,
) -> None:
    """Half of the second prompt was generated here; the prefill worker asked for it saw none of it."""

    async def check() -> None:
        settings = HandoffSettings(local_below=4)
        async with running(checkpoint("qwen3").directory, prefill_ranks=[1, 1], settings=settings) as pods:
            first, second = pods.desks
            for desk, peer in zip(pods.desks, pods.peers, strict=True):
                peer.pod = f"prefill-{pods.desks.index(desk)}"
            long = SamplingParams(max_tokens=60, temperature=0.0, ignore_eos=True, seed=1)
            opening = prompts(1, seed=11)[0][:80]
            for worker in pods.prefills:  # so that each has measured how fast it computes
                await pods.generate([prompts(1, seed=12)[0]], GREEDY, through=worker)
            answer = (await pods.generate([opening], long, prefer=["prefill-0"]))[0]
            turn = [*opening, *answer, *prompts(1, seed=13)[0][:30]]
            handed = await pods.generate([turn], GREEDY, prefer=["prefill-1"])
            assert second.lending.pages >= len(turn) // 16 - 3, "nothing was read from the decode worker"
            assert first.lending.pages == 0
            third = [*turn, *handed[0], 5, 6, 7]
            again = await pods.generate([third], GREEDY, prefer=[], lender="prefill-1")
            assert handed + again == await pods.generate([turn, third], GREEDY, through=pods.prefills[0])
            await pods.settled()
            assert not pods.handoffs.failures
            async with asyncio.timeout(5):
                while any(desk.loans or desk.lending.reading for desk in pods.desks):
                    await asyncio.sleep(0.01)
            assert pods.handoffs.lending.loans == 0

    asyncio.run(check())


@pytest.mark.parametrize("overlap", [True, False])
def test_a_resumed_sequence_is_handed_over_from_where_it_stood(overlap: bool, checkpoint: Make) -> None:
    """Cut after every token; prompt and generated tokens are one prompt to whoever computes them."""
    sampled = SamplingParams(
        max_tokens=24, seed=7, temperature=1.3, min_p=0.02, repetition_penalty=1.2, presence_penalty=0.4,
        frequency_penalty=0.3, logit_bias=((5, 2.0),), min_tokens=20, stop_token_ids=tuple(range(0, 101, 6)),
    )  # fmt: skip
    greedy = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)

    async def check() -> None:
        fine = {"page_size": 4, "overlap": overlap, "cache": "naive"}
        async with running(checkpoint("qwen3").directory, **fine) as pods:
            for sampling, prompt in zip((sampled, greedy), prompts(2, seed=15), strict=True):
                (whole,) = await pods.generate([prompt], sampling, through=pods.prefills[0])
                assert len(whole) > 20
                begun = [
                    pods.begin(prompt, sampling, pods.handoffs, whole[:cut]) for cut in range(len(whole))
                ]
                rest = await asyncio.wait_for(asyncio.gather(*(work for _, work in begun)), 60)
                assert [whole[:cut] + more for cut, more in enumerate(rest)] == [whole] * len(whole)
            assert all(timeline.prefill for timeline in pods.timelines.values()), "one was not handed over"

    asyncio.run(check())


def test_a_prefill_worker_that_dies_is_replaced_and_then_done_without(checkpoint: Make) -> None:
    async def check() -> None:
        settings = HandoffSettings(local_below=4, timeout_s=20)
        async with running(checkpoint("qwen3").directory, prefill_ranks=[1, 1], settings=settings) as pods:
            fresh = prompts(30, seed=8)
            want = await pods.generate(fresh, GREEDY, through=pods.prefills[1])
            work = asyncio.gather(*(pods.begin(p, GREEDY, pods.handoffs)[1] for p in fresh))
            await asyncio.sleep(0.05)
            os.kill(pods.prefills[0]._processes[0].pid, signal.SIGKILL)
            await pods.prefills[0].failed.wait()
            await pods.desks[0].__aexit__()
            assert await asyncio.wait_for(work, 60) == want
            await unready(pods.peers[0])
            os.kill(pods.prefills[1]._processes[0].pid, signal.SIGKILL)
            await pods.prefills[1].failed.wait()
            await pods.desks[1].__aexit__()
            await unready(pods.peers[1])
            late = prompts(6, seed=9)
            done = await pods.generate(late, GREEDY)
            assert done == await pods.generate(late, GREEDY, through=pods.decode)

    asyncio.run(check())


def test_what_landed_before_a_prefill_worker_died_is_not_sent_again(checkpoint: Make) -> None:
    async def check() -> None:
        settings = HandoffSettings(local_below=4, timeout_s=20)
        fine = {"page_size": 4, "prefill_budget": 4}
        async with running(
            checkpoint("qwen3").directory, prefill_ranks=[1, 1], settings=settings, **fine
        ) as pods:
            landed = 0

            def count(pages: Pages) -> None:
                nonlocal landed
                landed += len(pages.stored) // 16

            pods.decode.watch_pages(count)
            for worker in pods.prefills:  # so that each has measured how fast it computes
                await pods.generate(prompts(1, seed=12), GREEDY, through=worker)
            prompt = [random.Random(5).randrange(101) for _ in range(239)]
            _, work = pods.begin(prompt, GREEDY, pods.handoffs)
            async with asyncio.timeout(20):
                while landed < 8:
                    await asyncio.sleep(0.001)
            (asked,) = pods.handoffs.attempts.open.values()
            victim = pods.peers.index(asked.peer)
            os.kill(pods.prefills[victim]._processes[0].pid, signal.SIGKILL)
            await pods.prefills[victim].failed.wait()
            await pods.desks[victim].__aexit__()
            tokens = await asyncio.wait_for(work, 60)
            assert [tokens] == await pods.generate([prompt], GREEDY, through=pods.prefills[1 - victim])
            (timeline,) = pods.timelines.values()
            assert {"chunk landed", "landed"} <= marks(pods) and any("failed" in what for what in marks(pods))
            assert pods.decode.facts is not None
            sent = timeline.handed // pods.decode.facts.page_bytes
            assert 0 < sent <= 60 - 8, "the second writer sent what had landed"
            other = pods.desks[1 - victim].lending
            assert other.pages >= 8, "the second writer computed what had landed and did not read it"
            assert timeline.cached is not None and timeline.cached >= 8 * 4

    asyncio.run(check())


def test_where_a_prompt_is_computed_is_measured_unless_it_is_set(checkpoint: Make) -> None:
    async def check() -> None:
        directory = checkpoint("qwen3").directory
        async with running(directory, settings=HandoffSettings()) as pods:
            assert pods.handoffs.local_below == 64
            handed = await pods.generate(prompts(24, seed=12), GREEDY)
            assert handed == await pods.generate(prompts(24, seed=12), GREEDY, through=pods.prefills[0])
            ways = re.search(r"<Threshold (\d+) here, (\d+) away", repr(pods.handoffs.threshold))
            assert ways is not None and int(ways[1]) >= 3 and int(ways[2]) >= 3, ways
            pods.handoffs.settings = HandoffSettings(local_below=200)
            assert pods.handoffs.local_below == 200

    asyncio.run(check())


def test_nobody_to_prefill_and_not_allowed_to_is_said_at_once(checkpoint: Make) -> None:
    async def check() -> None:
        settings = HandoffSettings(allow_local=False)
        async with running(checkpoint("qwen3").directory, prefill_ranks=[], settings=settings) as pods:
            with pytest.raises(RuntimeError, match="no prefill worker is ready"):
                await pods.generate(prompts(1), GREEDY)

    asyncio.run(check())


def test_a_lost_prompt_is_not_computed_here_where_that_is_not_allowed(checkpoint: Make) -> None:
    async def check() -> None:
        settings = HandoffSettings(allow_local=False, local_below=4, timeout_s=20)
        async with running(checkpoint("qwen3").directory, settings=settings) as pods:
            os.kill(pods.prefills[0]._processes[0].pid, signal.SIGSTOP)  # takes the leg, and says nothing
            id, work = pods.begin(prompts(1)[0], GREEDY, pods.handoffs)
            await asyncio.sleep(0.3)
            os.kill(pods.prefills[0]._processes[0].pid, signal.SIGKILL)
            await pods.prefills[0].failed.wait()
            await pods.desks[0].__aexit__()
            with pytest.raises(RuntimeError, match="no prefill worker is ready"):
                async with asyncio.timeout(10):
                    await work
            assert pods.handoffs.open == 0 and id not in pods.handoffs.timelines

    asyncio.run(check())


def test_a_writer_that_does_not_answer_loses_its_leave_and_then_its_pages(checkpoint: Make) -> None:
    """Its front lives and its rank stands still: until it has no leave any more, it may wake up and write."""

    async def check() -> None:
        settings = HandoffSettings(local_below=4, timeout_s=0.5, tries=1)
        async with running(checkpoint("qwen3").directory, settings=settings) as pods:
            pods.handoffs.attempts.answer_s = 0.5
            want = await pods.generate(prompts(2), GREEDY, through=pods.decode)
            rank, (peer,) = pods.prefills[0]._processes[0].pid, pods.peers
            fresh = prompts(1, seed=21)
            os.kill(rank, signal.SIGSTOP)
            try:
                _, work = pods.begin(fresh[0], GREEDY, pods.handoffs)
                tokens = await asyncio.wait_for(work, 20)  # computed here, after the attempt was given up
                (given_up,) = pods.handoffs.attempts.open.values()
                assert given_up.given_up and pods.decode.load is not None
                async with asyncio.timeout(20):
                    while not given_up.lapsing:
                        leave = peer.permitted_at
                        await asyncio.sleep(0.01)
                    while pods.handoffs.inflight:
                        await asyncio.sleep(0.01)
                assert time.monotonic() >= leave + LAPSE_S, "it was lifted while the writer had leave"
                async with asyncio.timeout(10):
                    while pods.decode.load.pages_fenced:
                        await asyncio.sleep(0.01)
            finally:
                os.kill(rank, signal.SIGCONT)
            pods.handoffs.settings = HandoffSettings(local_below=4, timeout_s=20)
            async with asyncio.timeout(20):
                while not peer.takes_work:
                    await asyncio.sleep(0.01)
            assert want == await pods.generate(prompts(2), GREEDY)
            assert [tokens] == await pods.generate(fresh, GREEDY, through=pods.prefills[0])
            await pods.settled()

    asyncio.run(check())


def test_a_client_that_leaves_frees_both_pods(checkpoint: Make) -> None:
    async def check() -> None:
        async with running(checkpoint("qwen3").directory) as pods:
            long = SamplingParams(max_tokens=150, temperature=0.0, ignore_eos=True, seed=1)
            chance = random.Random(0)
            for round in range(3):
                begun = [pods.begin(p, long, pods.handoffs) for p in prompts(8, seed=20 + round)]
                await asyncio.sleep(chance.random() * 0.1)
                for id, future in begun:
                    pods.handoffs.abort(id)
                    future.cancel()
            await pods.settled(2.0)
            await pods.generate(prompts(1), GREEDY)
            await asyncio.sleep(0.2)
            for worker in (*pods.prefills, pods.decode):
                load = worker.load
                assert load is not None and load.running == load.waiting == load.prefilling == 0

    asyncio.run(check())


def test_a_stranger_without_the_secret_is_not_answered(checkpoint: Make) -> None:
    async def check() -> None:
        async with running(checkpoint("qwen3").directory, secret="let me in") as pods:
            for secret in ("", "guess"):
                stranger = Peer(pods.desks[0].address, hello(pods.decode, "decode"), secret)
                async with stranger:
                    await asyncio.sleep(1.0)
                    assert not stranger.ready
            assert (await pods.generate(prompts(2), GREEDY)) is not None

    asyncio.run(check())
