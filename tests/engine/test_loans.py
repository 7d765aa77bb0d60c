"""What is lent or read for others takes pages from the engine for a while, and never brings it down."""

from __future__ import annotations

from tests.engine.test_scheduler import VOCAB, engine, request, run

from baton.engine.fetches import Fetches
from baton.engine.loans import Loans
from baton.protocol import engine as wire
from baton.testing.mirror import continuation
from baton.tokens.identity import page_identities


def test_a_sequence_that_grows_while_the_rest_of_the_pool_is_lent_waits_for_it() -> None:
    served = engine(pages=24)
    prompt, other = list(range(48)), [9, 8, 7, 6, 5]
    run_once = request("lent", prompt, 1)
    served.submit(run_once)
    run(served)
    loans = Loans(served.scheduler.holdings)
    assert len(loans.lend("loan", run_once.identities, 0)) == 12
    served.submit(request("grows", other, 60))
    tokens = []
    for _ in range(100):
        tokens += [u.token for u in served.step().updates if u.token is not None]
    assert 30 < len(tokens) < 60 and not served.idle, "it has all that is not lent"
    loans.end("loan")
    tokens += run(served)["grows"]
    assert tokens == continuation(other, 60, VOCAB)


def test_a_sequence_that_grows_while_pages_wait_for_what_is_read_waits_for_them() -> None:
    served = engine(pages=24)
    commands: list[wire.ToRank] = []
    fetches = Fetches(served.scheduler.holdings, 1, commands.append)
    wanted = page_identities([3] * 48, 4)
    assert fetches.want(wire.Fetch("f", "owner", wanted, 1, 5.0), spare=0) is not None
    other = [9, 8, 7, 6, 5]
    served.submit(request("grows", other, 60))
    tokens = []
    for _ in range(100):
        tokens += [u.token for u in served.step().updates if u.token is not None]
    assert 30 < len(tokens) < 60 and not served.idle, "it has all that is not set aside"
    fetches.pull("f", ())
    tokens += run(served)["grows"]
    assert tokens == continuation(other, 60, VOCAB)
