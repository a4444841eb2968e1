"""A reservation is given back in the moment its record is counted; one that cannot be stops the batch before its first write."""

import json
import time

import pytest
from ledger.given import record

from proxy.ledger.answers import Applied, Behind, RefusedBatch, Want
from proxy.ledger.tally import Retention, fold
from proxy.pricing.budgets import Budget
from proxy.usage import Share

BUDGETS = (Budget("one", 1000, "USD", refuses=True), Budget("two", 1000, "USD", rolling_s=3600, refuses=True))


def batch_of(shares):
    return fold("j", 1, [record(1, is_reserved=True, shares=shares)], Retention())


def sums(shelf, budget):
    """What a budget has spent and holds, all buckets together."""
    found = {"spent": 0, "held": 0}
    for name, value in shelf.hash(f"budget:{budget}").items():
        found[name.decode().partition(":")[0]] += int(value)
    return found


@pytest.mark.parametrize("nanos", [0, 1, 60])
def test_what_is_held_becomes_what_is_spent(shelf, nanos):
    """Also where nothing was held because nobody knew a price; the same batch again changes nothing."""

    async def reserve_and_settle(store):
        held = await store.reserve("j", "x-1", [Want(budget, nanos) for budget in BUDGETS], time.time())
        taken = tuple(Share(share.budget, share.bucket_s, nanos, 25) for share in held.shares)
        batch = batch_of(taken)
        return [await store.apply(batch), await store.apply(batch)]

    assert shelf.run(reserve_and_settle) == [Applied(1), Behind(1)]
    for budget in BUDGETS:
        assert sums(shelf, budget.name) == {"spent": 25, "held": 0}
    assert not shelf.hash("holds:j")


@pytest.mark.parametrize(
    "text", ["no JSON", '"text"', "[[1,2,3]]", '[["one",2]]', '[["one",2,-3]]', '[["one",2,0.5]]', '[["one","2",3]]']
)
def test_a_reservation_that_cannot_be_read_changes_nothing(shelf, text):
    """Redis does not undo a script that fails half-way: the batch is refused whole, before anything is added."""
    shelf.run(lambda store: store.prepare())
    shelf.client.hset(shelf.key("holds:j"), "x-1", text)
    before = shelf.dump()
    assert isinstance(shelf.run(lambda store: store.apply(batch_of(()))), RefusedBatch)
    assert shelf.dump() == before


@pytest.mark.parametrize("spoilt", ["no number", "1.5", "9" * 19])
def test_a_sum_that_cannot_be_added_to_changes_nothing(shelf, spoilt):
    """The same for what is held in all."""
    shelf.run(lambda store: store.prepare())
    shelf.client.hset(shelf.key("holds:j"), "x-1", json.dumps([["one", 600, 5]]))
    shelf.client.hset(shelf.key("budget:one"), "held:600", spoilt)
    before = shelf.dump()
    assert isinstance(shelf.run(lambda store: store.apply(batch_of(()))), RefusedBatch)
    assert shelf.dump() == before
