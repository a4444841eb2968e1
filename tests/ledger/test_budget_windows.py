"""Which buckets a reservation counts in and is counted against, in a real Redis: by its clock, whatever the worker's says."""

import pytest
from ledger.test_budgets import LIMIT, day, minute, now, settling, wants

from proxy.ledger.answers import Held
from proxy.pricing.budgets import ROLLING_BUCKETS, Budget
from proxy.usage import Share


@pytest.mark.parametrize("off_s", [-86_000, 0, 86_000])
def test_redis_clock_decides_the_period_however_wrong_the_worker_s_is(shelf, off_s):
    async def work(store):
        return await store.reserve("j", "x-1", wants(1), now() + off_s)

    [share] = shelf.run(work).shares

    assert share.bucket_s == day.bucket_at(now()).start_s


def test_a_rolling_window_counts_its_last_buckets_and_no_older_ones(shelf, client):
    """And says when the oldest of them leaves."""
    seconds = client.time()[0]
    oldest = seconds - ROLLING_BUCKETS + 10  # well inside for the seconds that this test may take

    async def work(store):
        for bucket, nanos in ((seconds - ROLLING_BUCKETS - 30, 900), (oldest, 600)):
            client.hset(shelf.key("budget:minute"), f"spent:{bucket}", nanos)
        return [await store.reserve("j", f"x-{nanos}", wants(nanos, minute), now()) for nanos in (400, 1)]

    granted, refused = shelf.run(work)

    assert isinstance(granted, Held)
    assert (refused.spent_nanos, refused.held_nanos) == (600, 400)
    assert refused.free_s == oldest + ROLLING_BUCKETS + 1


def test_a_rolling_window_begins_where_the_budget_says(shelf, client):
    """Its oldest bucket counts, the one before it does not. They are wide, so that none begins while this test runs."""
    quarter = Budget("quarter", LIMIT, "USD", rolling_s=90 * 86_400, refuses=True)
    oldest, _ = quarter.window_at(client.time()[0])
    before = oldest - quarter.width_s
    client.hset(shelf.key("budget:quarter"), mapping={f"spent:{before}": LIMIT, f"spent:{oldest}": 600})

    async def work(store):
        return [await store.reserve("j", f"x-{nanos}", wants(nanos, quarter), now()) for nanos in (401, 400)]

    refused, granted = shelf.run(work)

    assert refused.spent_nanos == 600
    assert isinstance(granted, Held)


def test_what_is_held_in_a_bucket_that_has_left_the_window_goes_without_a_trace(shelf, client):
    """Pruned while it was held: settling must not leave less than nothing behind."""
    gone = client.time()[0] - 10 * 60

    async def work(store):
        share = Share("minute", gone, 50)
        await store.hold("j", {"x-1": (share,), "x-2": (share,)}, {})
        client.hdel(shelf.key("budget:minute"), f"held:{gone}")  # as pruning does
        await store.apply(settling(1, [share], 30))
        await store.hold("j", {}, {}, ["x-2"])
        return await store.reserve("j", "x-3", wants(LIMIT, minute), now())

    assert isinstance(shelf.run(work), Held)
    assert shelf.hash("budget:minute").get(f"held:{gone}".encode()) is None


def test_a_period_border_between_reserving_and_settling_moves_nothing(shelf):
    yesterday = day.bucket_at(now()).start_s - 10

    async def work(store):
        bucket = day.bucket_at(yesterday).start_s
        share = Share("day", bucket, 50)
        await store.hold("j", {"x-1": (share,)}, {})
        await store.apply(settling(1, [share], 30))
        return bucket

    bucket = shelf.run(work)

    assert shelf.hash("budget:day") == {f"held:{bucket}".encode(): b"0", f"spent:{bucket}".encode(): b"30"}
