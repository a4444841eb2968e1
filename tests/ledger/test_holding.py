"""What is held is what its owner says is open: in the order in which a ledger says it, and with others asking meanwhile."""

import asyncio
import os
import time
from contextlib import contextmanager

import pytest
from ledger.given import encoded, record

from proxy.ledger.answers import Want
from proxy.ledger.budgets import holds_hash
from proxy.ledger.holding import Holding
from proxy.ledger.journal import JournalReader, JournalWriter, lock_abandoned
from proxy.ledger.ledger import Ledger
from proxy.ledger.recovery import recover
from proxy.ledger.tally import Retention
from proxy.pricing.budgets import Budget
from proxy.settings import JournalSettings
from proxy.usage import Api, BegunMark, Outcome, Share

budget = Budget("b", 1000, "USD", refuses=True)


def held_for(shelf, journal):
    return {name.decode() for name in shelf.hash(holds_hash(journal))}


async def reserve(store, journal, name, holds=None):
    if holds is not None:
        holds.asking(name)
    answer = await store.reserve(journal, name, [Want(budget, 100)], time.time())
    if holds is not None:
        holds.held(name, answer.shares)
    return answer.shares


def recovered(mark, end_s):
    taken = tuple(Share(one.budget, one.bucket_s, one.reserved_nanos, one.reserved_nanos) for one in mark.reserved)
    return record(
        1, exchange_id=mark.exchange_id, outcome=Outcome.INTERRUPTED, end_s=end_s, shares=taken, is_reserved=True
    )


def ledger_on(store, folder, name, **changes):
    return Ledger(
        store,
        folder,
        name,
        JournalSettings(**{"fsync": "never", **changes}),
        Retention(),
        recover_record=recovered,
        budgets=[budget],
    )


async def a_round(ledger):
    """One round with a comparison, as `run` makes them every few seconds."""
    ledger._compared_s = ledger._shipped_s = float("-inf")
    await ledger._round()


@contextmanager
def refusing(shelf):
    """A Redis that takes no record: something else stands in the place of the stream."""
    shelf.client.set(shelf.key("records"), "not ours")
    yield
    shelf.client.delete(shelf.key("records"))


def dead_with_a_record(folder):
    """A worker that is gone, and one record of it."""
    writer = JournalWriter(folder, "dead", 4096)
    writer.append(encoded(record(1)))
    writer.close()


async def dead_with_one_open(store, folder):
    """A worker that was killed within an exchange."""
    writer = JournalWriter(folder, "dead", 4096)
    shares = await reserve(store, "dead", "x-1")
    writer.begin("x-1", encoded(BegunMark("x-1", 0.0, Api.CHAT, "m", "a", reserved=shares)))
    writer.close()


async def ended(ledger):
    ledger.stop()
    await ledger.run()


def test_who_reserves_while_it_is_said_what_is_open_is_not_given_back(shelf):
    """The exchange is not among the open ones that were sent, and is held when they arrive."""

    class Meanwhile:
        """Lets an exchange reserve between the list of the open ones and the script that reads it."""

        def __init__(self, store):
            self.store = store
            self.holding = None

        async def hold(self, journal, still_open, prune, over=()):
            still_open = dict(still_open)
            if self.holding is not None:
                await reserve(self.store, "j", f"x-{time.monotonic_ns()}", self.holding.holds)
            return await self.store.hold(journal, still_open, prune, over)

    async def work(store):
        between = Meanwhile(store)
        holding = Holding(between, "j", [budget], wall_s=time.time, fault=lambda *_: None)
        between.holding = holding
        for _ in range(3):
            await holding.say_what_is_open()
            await holding.give_back(0)
        return set(holding.holds.still_open)

    still_open = shelf.run(work)

    assert len(still_open) >= 3
    assert held_for(shelf, "j") == still_open


def test_what_is_held_for_nobody_is_given_back(shelf):
    async def work(store):
        holding = Holding(store, "j", [budget], wall_s=time.time, fault=lambda *_: None)
        await reserve(store, "j", "mine", holding.holds)
        await reserve(store, "j", "nobody's")
        await holding.say_what_is_open()
        await holding.give_back(0)

    shelf.run(work)

    assert held_for(shelf, "j") == {"mine"}


def test_a_round_gives_back_what_is_held_for_nobody_here_and_in_the_journal_of_a_dead_worker(shelf, tmp_path):
    """Also while that journal is kept for a replay."""

    async def work(store):
        dead_with_a_record(tmp_path)
        await reserve(store, "dead", "no mark of it")
        await reserve(store, "j", "nobody's")
        ledger = ledger_on(store, tmp_path, "j")
        await a_round(ledger)
        await ended(ledger)

    shelf.run(work)

    assert (tmp_path / "dead").exists()
    assert (held_for(shelf, "j"), held_for(shelf, "dead")) == (set(), set())


async def reserve_unheard(store, journal, name, holds):
    """The store has it, and its answer is lost."""
    holds.asking(name)
    return await reserve(store, journal, name)


def test_what_is_held_unheard_stays_until_the_record_is_in_the_counters(shelf):
    """The exchange may have cost something: until that is spent, nobody else may have the room."""
    seen = []

    async def work(store):
        holding = Holding(store, "j", [budget], wall_s=time.time, fault=lambda *_: None)
        await reserve_unheard(store, "j", "x-7", holding.holds)
        holding.holds.recorded("x-7", 7)
        for applied in (6, 7):
            await holding.say_what_is_open()
            await holding.give_back(applied)
            seen.append(held_for(shelf, "j"))

    shelf.run(work)

    assert seen == [{"x-7"}, set()]


def test_one_that_ends_after_it_was_told_a_stranger_waits_for_the_next_round(shelf):
    """Its record has a number that nobody looked at when the store answered; others go, however often answers are lost."""
    seen = []

    async def work(store):
        holding = Holding(store, "j", [budget], wall_s=time.time, fault=lambda *_: None)
        await reserve_unheard(store, "j", "x-7", holding.holds)
        await reserve_unheard(store, "j", "x-8", holding.holds)
        holding.holds.recorded("x-7", 7)
        await holding.say_what_is_open()
        holding.holds.recorded("x-8", 8)
        await holding.give_back(7)
        seen.append(held_for(shelf, "j"))
        await holding.say_what_is_open()
        await holding.give_back(8)
        seen.append(held_for(shelf, "j"))

    shelf.run(work)

    assert seen == [{"x-8"}, set()]


def test_what_an_unheard_exchange_cost_is_held_until_it_is_spent(shelf, tmp_path):
    """It ends while a round is under way, and its record is not on the disk for good, so not in the counters either."""
    seen = []

    def sums():
        found = {name.decode().partition(":")[0]: int(value) for name, value in shelf.hash("budget:b").items()}
        return found.get("held", 0), found.get("spent", 0)

    class EndsMeanwhile:
        """Lets an exchange end while it is said what is open."""

        def __init__(self, store):
            self.store = store
            self.ends = []

        def __getattr__(self, name):
            return getattr(self.store, name)

        async def hold(self, *asked):
            while self.ends:
                self.ends.pop()()
            return await self.store.hold(*asked)

    async def work(store):
        between = EndsMeanwhile(store)
        ledger = ledger_on(between, tmp_path, "j", fsync="interval")
        shares = await reserve_unheard(store, "j", "x-1", ledger.holds)
        taken = tuple(Share(one.budget, one.bucket_s, 0, 60) for one in shares)
        between.ends.append(lambda: ledger.record(record(1, shares=taken, is_reserved=True)))
        for _ in range(3):
            seen.append(sums())
            await a_round(ledger)
        seen.append(sums())
        await ended(ledger)

    shelf.run(work)

    assert seen == [(100, 0), (100, 0), (0, 60), (0, 60)]
    assert held_for(shelf, "j") == set()


def test_without_budgets_nothing_is_asked():
    async def work():
        holding = Holding(None, "j", [], wall_s=time.time, fault=lambda *_: None)
        await holding.say_what_is_open()
        await holding.give_back(0)
        await holding.give_back_all_of("k")

    asyncio.run(work())


def test_a_key_that_is_not_ours_is_a_fault_and_records_are_shipped_all_the_same(shelf, client, tmp_path):
    async def work(store):
        ledger = ledger_on(store, tmp_path, "j")
        shares = await reserve(store, "j", "x-1", ledger.holds)
        client.delete(shelf.key("budget:b"), shelf.key(holds_hash("j")))
        client.set(shelf.key("budget:b"), "mine")
        ledger.record(record(2))
        await a_round(ledger)
        await ended(ledger)
        return shares, dict(ledger.faults)

    _, faults = shelf.run(work)

    assert shelf.records() == ["x-2"]
    assert faults["hold"] >= 1


def test_a_worker_that_died_before_it_wrote_anything_leaves_nothing_held(shelf, tmp_path):
    """Its journal is empty, and so is forgotten in the round in which it is found."""

    async def work(store):
        JournalWriter(tmp_path, "dead", 4096).close()
        await reserve(store, "dead", "x-1")
        ledger = ledger_on(store, tmp_path, "j")
        await a_round(ledger)
        await ended(ledger)

    shelf.run(work)

    assert not (tmp_path / "dead").exists()
    assert held_for(shelf, "dead") == set()
    assert set(shelf.hash("budget:b").values()) == {b"0"}


def test_a_journal_that_is_too_old_to_be_kept_is_given_back_before_it_is_forgotten(shelf, tmp_path):
    async def work(store):
        dead_with_a_record(tmp_path)
        await reserve(store, "dead", "no mark of it")
        ledger = ledger_on(store, tmp_path, "j", keep_bytes=1)
        await a_round(ledger)
        await ended(ledger)

    shelf.run(work)

    assert shelf.records() == ["x-1"]
    assert held_for(shelf, "dead") == set()


def test_a_journal_that_is_drained_between_two_comparisons_is_given_back_before_it_is_forgotten(
    shelf, tmp_path, monkeypatch
):
    """The round that compared came to nothing, since the disk could not be read; the next one forgets the journal."""

    def unreadable(*_):
        raise OSError("cannot be read")

    async def work(store):
        dead_with_a_record(tmp_path)
        await reserve(store, "dead", "no mark of it")
        ledger = ledger_on(store, tmp_path, "j", keep_bytes=1)
        with monkeypatch.context() as patched:
            patched.setattr(JournalReader, "read", unreadable)
            with pytest.raises(OSError, match="cannot be read"):
                await a_round(ledger)
        ledger._shipped_s = float("-inf")
        await ledger._round()
        await ended(ledger)

    shelf.run(work)

    assert not (tmp_path / "dead").exists()
    assert held_for(shelf, "dead") == set()


def test_what_is_held_for_an_interrupted_exchange_stays_until_its_record_is_in_the_counters(shelf, tmp_path):
    """Recovered records are taken over only by whoever has the journal they came from."""

    async def work(store):
        await dead_with_one_open(store, tmp_path)
        recover(tmp_path / "dead", recovered, 4096)
        ledger = ledger_on(store, tmp_path, "j")
        another = lock_abandoned(tmp_path / "dead")
        await a_round(ledger)
        adopted = [set(ledger._adopted)]
        os.close(another)
        await a_round(ledger)
        adopted.append(set(ledger._adopted))
        await ended(ledger)
        return adopted

    assert shelf.run(work) == [set(), {"dead", "dead.recovered"}]
    assert held_for(shelf, "dead") == set()
    assert sum(int(value) for name, value in shelf.hash("budget:b").items() if name.startswith(b"spent:")) == 100


def test_what_is_held_for_an_interrupted_exchange_outlasts_a_redis_that_refuses_its_record(shelf, tmp_path):
    """Else others would be let in with money that may be spent already."""

    async def work(store):
        await dead_with_one_open(store, tmp_path)
        ledger = ledger_on(store, tmp_path, "j")
        with refusing(shelf):
            await a_round(ledger)
            meanwhile = held_for(shelf, "dead")
        await a_round(ledger)
        await ended(ledger)
        return meanwhile

    assert shelf.run(work) == {"x-1"}
    assert held_for(shelf, "dead") == set()


def test_what_a_rollback_brought_back_is_held_until_its_record_is_counted_again(shelf, tmp_path):
    """What the exchange has cost is forgotten with its record: only what is held for it still stands for that."""

    async def work(store):
        ledger = ledger_on(store, tmp_path, "j")
        await a_round(ledger)
        shares = await reserve(store, "j", "x-1", ledger.holds)
        earlier = shelf.dump()
        ledger.record(record(1, shares=shares, is_reserved=True))
        await a_round(ledger)
        shelf.restore(earlier)
        with refusing(shelf):
            await a_round(ledger)
            meanwhile = held_for(shelf, "j")
        await a_round(ledger)
        await ended(ledger)
        return meanwhile

    assert shelf.run(work) == {"x-1"}
    assert shelf.records() == ["x-1"]
    assert held_for(shelf, "j") == set()


def test_a_batch_whose_answer_was_lost_is_not_held_again(shelf, tmp_path):
    async def work(store):
        ledger = ledger_on(store, tmp_path, "j")
        shares = await reserve(store, "j", "x-1", ledger.holds)
        ledger.record(record(1, shares=shares, is_reserved=True))
        another = ledger_on(store, tmp_path, "k")
        shipper = ledger._shipper_for(tmp_path / "j")  # the same journal: its batch is applied, and `ledger` not told
        await shipper.ship(1)
        shipper.close()
        await ledger._compare_if_due()
        found = held_for(shelf, "j")
        await ended(ledger)
        await ended(another)
        return found

    assert shelf.run(work) == set()
