"""Reserving, settling and giving back in a real Redis: all or nothing, and once."""

import asyncio
import os
import signal
import time

import msgspec
import pytest
from ledger.given import Shelf, record
from redis.cluster import key_slot

from proxy.errors import StoreUnavailableError
from proxy.ledger.answers import Applied, Behind, Held, RefusedBatch, UsedUp, Want
from proxy.ledger.budgets import Holds, holds_hash
from proxy.ledger.tally import Retention, fold
from proxy.pricing.budgets import Budget
from proxy.usage import Outcome, Share

LIMIT = 1000
day = Budget("day", LIMIT, "USD", period="day", refuses=True)
month = Budget("month", 10 * LIMIT, "USD", period="month", refuses=True)
minute = Budget("minute", LIMIT, "USD", rolling_s=60, refuses=True)


def now():
    return time.time()


def wants(nanos, *budgets):
    return [Want(budget, nanos) for budget in budgets or (day,)]


def sums(shelf, budget):
    """What is spent and held in all buckets of a budget."""
    found = {"spent": 0, "held": 0}
    for name, value in shelf.hash(f"budget:{budget.name}").items():
        found[name.decode().partition(":")[0]] += int(value)
    return found["spent"], found["held"]


def held_for(shelf, journal="j"):
    return {name.decode() for name in shelf.hash(holds_hash(journal))}


def settling(number, shares, nanos, journal="j", first=None):
    """The batch of one record that takes so much of what was reserved."""
    taken = tuple(msgspec.structs.replace(share, taken_nanos=nanos) for share in shares)
    return fold(journal, first or number, [record(number, shares=taken, is_reserved=True)], Retention())


# Reserving.


def test_what_is_reserved_is_held_in_every_budget_and_told(shelf):
    async def work(store):
        return await store.reserve("j", "x-1", wants(300, day, month, minute), now())

    answer = shelf.run(work)

    assert [share.budget for share in answer.shares] == ["day", "month", "minute"]
    assert {share.reserved_nanos for share in answer.shares} == {300}
    assert [sums(shelf, one) for one in (day, month, minute)] == [(0, 300)] * 3
    assert held_for(shelf) == {"x-1"}


def test_all_or_nothing_and_the_refusal_names_the_budget_without_room(shelf):
    async def work(store):
        await store.reserve("j", "x-1", wants(800, day), now())
        return await store.reserve("j", "x-2", wants(300, month, day, minute), now())

    answer = shelf.run(work)

    assert isinstance(answer, UsedUp)
    assert (answer.budget, answer.spent_nanos, answer.held_nanos) == ("day", 0, 800)
    assert answer.free_s == day.bucket_at(now()).end_s
    assert [sums(shelf, one) for one in (day, month, minute)] == [(0, 800), (0, 0), (0, 0)]
    assert held_for(shelf) == {"x-1"}


@pytest.mark.parametrize(("nanos", "admitted"), [(700, True), (701, False)])
def test_the_limit_itself_may_be_reached_and_not_passed(shelf, nanos, admitted):
    async def work(store):
        await store.reserve("j", "x-1", wants(300), now())
        return await store.reserve("k", "x-2", wants(nanos), now())

    assert isinstance(shelf.run(work), Held) is admitted


def test_asked_twice_the_answer_is_the_first_one(shelf):
    """A client library that tries again after a broken connection reserves once."""

    async def work(store):
        return [await store.reserve("j", "x-1", wants(nanos), now()) for nanos in (300, 300, 900)]

    answers = shelf.run(work)

    assert answers[0] == answers[1] == answers[2]
    assert sums(shelf, day) == (0, 300)


def test_of_many_that_ask_at_once_no_more_are_admitted_than_fit(shelf):
    async def work(store):
        asking = (store.reserve(f"j{n % 4}", f"x-{n}", wants(70, day, month), now()) for n in range(50))
        return await asyncio.gather(*asking)

    answers = shelf.run(work)

    assert sum(isinstance(one, Held) for one in answers) == LIMIT // 70
    assert sums(shelf, day) == sums(shelf, month) == (0, LIMIT // 70 * 70)


def test_a_limit_that_was_lowered_below_what_is_spent_refuses_and_says_so(shelf):
    lowered = msgspec.structs.replace(day, limit_nanos=100)

    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300), now())
        await store.apply(settling(1, answer.shares, 250))
        return await store.reserve("j", "x-2", wants(1, lowered), now())

    answer = shelf.run(work)

    assert (answer.budget, answer.spent_nanos, answer.held_nanos) == ("day", 250, 0)


def test_nothing_can_be_reserved_and_settled_where_there_is_no_price(shelf):
    """HINCRBY takes no -0: the batch would be counted by half, again and again."""

    async def work(store):
        answer = await store.reserve("j", "x-1", wants(0, day, month), now())
        await store.reserve("j", "x-2", wants(0), now())
        first = await store.apply(settling(1, answer.shares, 0))
        await store.hold("j", {}, {}, ["x-2"])
        return first, await store.apply(settling(1, answer.shares, 0))

    assert shelf.run(work) == (Applied(1), Behind(1))
    assert held_for(shelf) == set()
    assert len(shelf.records()) == 1


# Settling.


@pytest.mark.parametrize("taken", [0, 120, 300, 450])
def test_settling_takes_what_it_cost_and_gives_back_all_that_was_held(shelf, taken):
    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300, day, month), now())
        await store.apply(settling(1, answer.shares, taken))

    shelf.run(work)

    assert sums(shelf, day) == sums(shelf, month) == (taken, 0)
    assert held_for(shelf) == set()


def test_a_batch_that_is_sent_again_settles_nothing_again(shelf):
    """The answer was torn, or two ship the same journal."""

    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300), now())
        await store.reserve("j", "x-2", wants(200), now())
        return [await store.apply(settling(1, answer.shares, 120)) for _ in range(3)]

    assert shelf.run(work) == [Applied(1), Behind(1), Behind(1)]
    assert sums(shelf, day) == (120, 200)


def test_after_a_rollback_the_replay_settles_once(shelf):
    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300), now())
        earlier = shelf.dump()
        await store.apply(settling(1, answer.shares, 120))
        shelf.restore(earlier)
        assert sums(shelf, day) == (0, 300)
        await store.apply(settling(1, answer.shares, 120), replayed=True)

    shelf.run(work)

    assert sums(shelf, day) == (120, 0)


def test_a_recovered_journal_settles_what_was_held_for_its_owner(shelf):
    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300), now())
        await store.apply(settling(1, answer.shares, 300, journal="j.recovered"))

    shelf.run(work)

    assert sums(shelf, day) == (300, 0)
    assert held_for(shelf) == set()


def test_a_record_that_nothing_was_reserved_for_only_takes(shelf):
    async def work(store):
        await store.apply(settling(1, [Share("day", 0)], 70))

    shelf.run(work)

    assert sums(shelf, day) == (70, 0)


# What the owner says is open.


def test_what_a_rollback_took_is_held_again_and_only_once(shelf):
    async def work(store):
        empty = shelf.dump()
        answer = await store.reserve("j", "x-1", wants(300), now())
        shelf.restore(empty)
        return [await store.hold("j", {"x-1": answer.shares}, {}) for _ in range(2)]

    first, second = shelf.run(work)

    assert (first.again, second.again) == (1, 0)
    assert sums(shelf, day) == (0, 300)


def test_what_was_not_named_is_told_and_left(shelf):
    """It may have been reserved while the question was on its way: only the owner can tell."""

    async def work(store):
        for name in ("x-1", "x-2", "x-3"):
            await store.reserve("j", name, wants(100), now())
        found = await store.hold("j", {"x-1": None}, {})
        assert sums(shelf, day) == (0, 300)
        return found, await store.hold("j", {}, {}, ["x-2", "x-9"])

    found, then = shelf.run(work)

    assert set(found.strangers) == {"x-2", "x-3"}
    assert then.back == 1
    assert held_for(shelf) == {"x-1", "x-3"}
    assert sums(shelf, day) == (0, 200)


def test_a_reservation_nobody_heard_of_is_not_made_up(shelf):
    """The question was lost on its way: nothing is held, and nobody knows how much it was to be."""

    async def work(store):
        return await store.hold("j", {"x-1": None}, {})

    assert shelf.run(work).again == 0
    assert sums(shelf, day) == (0, 0)


def test_old_buckets_go_once_there_are_many(shelf, client):
    key = shelf.key("budget:day")
    client.hset(key, mapping={f"spent:{n}": 1 for n in range(500)})

    async def work(store):
        await store.hold("j", {}, {"day": 450})

    shelf.run(work)

    assert {int(name.decode().partition(":")[2]) for name in client.hkeys(key)} == set(range(450, 500))


# What is not ours.


def test_a_key_of_the_wrong_type_is_refused_before_the_first_write(shelf, client):
    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300, day, month), now())
        client.delete(shelf.key("budget:month"))
        client.set(shelf.key("budget:month"), "mine")
        before = shelf.dump()
        applied = await store.apply(settling(1, answer.shares, 10))
        told = await store.hold("j", {}, {}, ["x-1"])
        again = await store.hold("k", {"y-1": answer.shares}, {})
        with pytest.raises(StoreUnavailableError):
            await store.reserve("j", "x-2", wants(1, day, month), now())
        assert shelf.dump() == before
        return applied, told, again

    applied, told, again = shelf.run(work)

    assert isinstance(applied, RefusedBatch)
    assert "no hash" in told.refused
    assert "no hash" in again.refused


def test_what_is_held_and_no_integer_is_refused_before_the_first_write(shelf, client):
    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300), now())
        client.hset(shelf.key("budget:day"), f"held:{answer.shares[0].bucket_s}", "1.5")
        before = shelf.dump()
        applied = await store.apply(settling(1, answer.shares, 10))
        assert shelf.dump() == before
        return applied

    assert "no integer" in shelf.run(work).reason


def test_every_key_is_in_one_slot_of_a_cluster_also_those_that_scripts_compute(shelf, client):
    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300, day, month), now())
        await store.apply(settling(1, answer.shares, 10))
        await store.reserve("k.recovered", "x-2", wants(1), now())

    shelf.run(work)

    assert len({key_slot(key) for key in client.scan_iter(f"{shelf.key('')}*")}) == 1


def test_a_user_whose_acl_allows_only_our_keys_can_reserve_settle_and_give_back(shelf, client):
    client.acl_setuser(
        "meter", enabled=True, passwords=["+sk-not-a-key"], keys=[f"{shelf.key('')}*"], categories=["+@all"]
    )
    url = shelf.url.replace("unix://", "unix://meter:sk-not-a-key@").replace("redis://", "redis://meter:sk-not-a-key@")

    async def work(store):
        answer = await store.reserve("j", "x-1", wants(300), now())
        await store.reserve("j", "x-2", wants(300), now())
        await store.hold("j", {}, {}, ["x-2"])
        return await store.apply(settling(1, answer.shares, 10))

    try:
        assert Shelf(url, client, shelf.namespace).run(work) == Applied(1)
    finally:
        client.acl_deluser("meter")


def test_a_question_that_is_given_up_takes_no_other_s_answer(shelf, client):
    """The wait is cancelled while Redis stands still; the connection it was on must not be used for the next question."""
    pid = client.info("server")["process_id"]

    async def work(store):
        await store.reserve("j", "x-0", wants(1), now())
        os.kill(pid, signal.SIGSTOP)
        try:
            for number in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.05):
                        await store.reserve("j", f"lost-{number}", wants(100), now())
        finally:
            os.kill(pid, signal.SIGCONT)
        answers = [await store.reserve("j", f"x-{n}", wants(n), now()) for n in (1, 2, 3)]
        return [answer.shares[0].reserved_nanos for answer in answers]

    assert shelf.run(work) == [1, 2, 3]


# What a worker remembers.


def test_a_worker_forgets_a_reservation_when_its_record_is_in_the_counters():
    holds = Holds()
    for number, name in enumerate(("a", "b", "c"), 1):
        holds.asking(name)
        holds.held(name, (Share("day", 0, number),))
        holds.recorded(name, number)
    holds.asking("asked")

    holds.applied(2)

    assert dict(holds.still_open) == {"c": (Share("day", 0, 3),), "asked": None}


def test_an_outage_of_the_store_fills_no_memory():
    """Nobody knows whether something is held for these exchanges: with its record a worker forgets each, whether applied or not."""
    holds = Holds()
    fresh = {name: len(kept) for name, kept in vars(holds).items() if hasattr(kept, "__len__")}
    for number in range(1, 1001):
        holds.asking(f"x-{number}")
        assert dict(holds.still_open) == {f"x-{number}": None}
        holds.recorded(f"x-{number}", number)

    assert {name: len(kept) for name, kept in vars(holds).items() if hasattr(kept, "__len__")} == fresh
    assert holds.unheard == 1000


def test_a_refusal_and_a_record_of_nobody_leave_nothing_open():
    holds = Holds()
    holds.asking("a")
    holds.refused("a")
    holds.recorded("never asked", 1)

    assert len(holds) == 0


def test_an_interrupted_record_of_a_refused_exchange_settles_too(shelf):
    """Whatever ended it: a record with `is_reserved` gives back."""

    async def work(store):
        await store.reserve("j", "x-1", wants(300), now())
        await store.apply(fold("j", 1, [record(1, outcome=Outcome.REFUSED, is_reserved=True)], Retention()))

    shelf.run(work)

    assert sums(shelf, day) == (0, 0)
