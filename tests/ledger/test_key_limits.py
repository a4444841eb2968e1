import asyncio
import itertools

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from ledger.test_client_keys import key

from proxy.errors import KeysUnavailableError, LimitReachedError
from proxy.ledger import key_limits
from proxy.ledger.key_limits import MINUTE_S, Limiter, LocalLimits
from proxy.ledger.store import connect

ids = itertools.count(1)


def limiter(store, *, answers=True, on_store_down="cached"):
    return Limiter(
        store,
        answers=lambda: answers,
        on_store_down=on_store_down,
        monotonic_s=lambda: 0.0,
        new_id=lambda: f"lease{next(ids)}",
    )


async def taken(limiter, one):
    lease = limiter.lease(one)
    await lease.take()
    return lease


async def refusal(limiter, one):
    with pytest.raises(LimitReachedError) as raised:
        await taken(limiter, one)
    return raised.value


def test_a_key_without_limits_asks_nobody(shelf):
    """No lease, and so no call."""

    async def work(store):
        assert limiter(store).lease(key()) is None
        assert limiter(store).lease(None) is None

    shelf.run(work)


def test_requests_per_minute_hold_over_all_workers(shelf):
    """What is refused is not counted, and says when to come again."""
    one = key(requests_per_minute=5)

    async def work(store):
        workers = [limiter(store), limiter(store)]
        results = await asyncio.gather(
            *(taken(worker, one) for worker in workers for _ in range(8)), return_exceptions=True
        )
        let_in = [result for result in results if not isinstance(result, Exception)]
        assert len(let_in) == 5
        error = await refusal(workers[0], one)
        assert (error.status, error.code) == (429, "rate_limit_reached")
        assert 1 <= error.retry_after_s <= 60
        assert "5 requests per minute" in str(error)
        assert shelf.client.zcard(shelf.key(f"key_minute:{one.id}")) == 5
        assert 0 < shelf.client.pttl(shelf.key(f"key_minute:{one.id}")) <= 60_000

    shelf.run(work)


def test_a_refusal_costs_one_call(shelf):
    """There is nothing to give back, and somebody who asks too often asks often."""
    one = key(concurrent=1)

    async def work(store):
        worker = limiter(store)
        await taken(worker, one)
        refused = worker.lease(one)
        with pytest.raises(LimitReachedError):
            await refused.take()
        before = shelf.client.info("stats")["total_commands_processed"]
        await refused.release()
        assert shelf.client.info("stats")["total_commands_processed"] == before + 1  # the look itself

    shelf.run(work)


def test_the_minute_slides(shelf):
    """A request counts for sixty seconds of Redis' clock; the oldest that is in the way says when."""
    one = key(requests_per_minute=2)
    name = shelf.key(f"key_minute:{one.id}")
    seconds, micros = shelf.client.time()
    now = seconds * 1_000_000 + micros

    async def work(store):
        shelf.client.zadd(name, {"old": now - 60_000_000, "older": now - 90_000_000, "recent": now - 50_000_000})
        await taken(limiter(store), one)
        error = await refusal(limiter(store), one)
        assert error.retry_after_s <= 10
        assert shelf.client.zcard(name) == 2

    shelf.run(work)


def test_a_clock_that_was_set_back_locks_nobody_out(shelf):
    """Instants in the future are dropped."""
    one = key(requests_per_minute=1, concurrent=1)
    seconds, _ = shelf.client.time()
    for name in ("key_minute", "key_open"):
        shelf.client.zadd(shelf.key(f"{name}:{one.id}"), {"x": (seconds + 3600) * 1_000_000})

    shelf.run(lambda store: taken(limiter(store), one))


def test_concurrent_exchanges_hold_over_all_workers_and_are_given_back(shelf):
    """The next may come as soon as one has ended, on any worker."""
    one = key(concurrent=2)

    async def work(store):
        first, second = limiter(store), limiter(store)
        lease = await taken(first, one)
        await taken(second, one)
        error = await refusal(first, one)
        assert (error.status, error.code, error.retry_after_s) == (429, "concurrency_limit_reached", 1)
        await lease.release()
        await lease.release()  # twice is once
        await taken(second, one)
        await refusal(second, one)

    shelf.run(work)


def test_what_one_limit_refuses_the_other_does_not_count(shelf):
    """A refused request is under no limit."""
    one = key(concurrent=1, requests_per_minute=2)

    async def work(store):
        lease = await taken(limiter(store), one)
        for _ in range(5):
            assert (await refusal(limiter(store), one)).code == "concurrency_limit_reached"
        await lease.release()
        await (await taken(limiter(store), one)).release()
        assert (await refusal(limiter(store), one)).code == "rate_limit_reached"
        assert shelf.client.zcard(shelf.key(f"key_open:{one.id}")) == 0

    shelf.run(work)


def test_leases_of_a_dead_worker_lapse_and_those_of_a_living_one_do_not(shelf, monkeypatch):
    """A worker renews what is open; nobody renews for the dead."""
    monkeypatch.setattr(key_limits, "LEASE_S", 0.4)
    one = key(concurrent=2)

    async def work(store):
        living, dead = limiter(store), limiter(store)
        await taken(living, one)
        await taken(dead, one)
        await refusal(living, one)
        for _ in range(12):
            await asyncio.sleep(0.05)
            await living.renew()
        await taken(limiter(store), one)
        await refusal(limiter(store), one)

    shelf.run(work)


def test_a_renewal_finds_its_way_back_into_a_wiped_redis(shelf):
    """The exchanges are still open."""
    one = key(concurrent=1)

    async def work(store):
        worker = limiter(store)
        lease = await taken(worker, one)
        shelf.restore({})
        await worker.renew()
        await refusal(limiter(store), one)
        await lease.release()
        await worker.renew()
        assert shelf.client.zcard(shelf.key(f"key_open:{one.id}")) == 0

    shelf.run(work)


def test_a_lease_that_ends_while_it_is_renewed_stays_ended(shelf):
    """The renewal may have come behind the release."""
    one = key(concurrent=1)

    async def work(store):
        worker = limiter(store)
        lease = await taken(worker, one)
        renew = worker._renew

        async def slow(*arguments):
            await lease.release()
            await renew(*arguments)

        worker._renew = slow
        await worker.renew()
        assert shelf.client.zcard(shelf.key(f"key_open:{one.id}")) == 0

    shelf.run(work)


def test_a_request_given_up_while_it_asked_leaves_nothing_behind(shelf):
    """Its client left; it may have been let in meanwhile."""
    one = key(concurrent=1)

    async def work(store):
        worker = limiter(store)
        lease = worker.lease(one)
        asking = asyncio.create_task(lease.take())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await lease.release()
        await taken(worker, one)

    shelf.run(work)


def test_without_redis_a_worker_decides_by_itself():
    """With what it has let in; `refuse` answers 503."""
    one = key(requests_per_minute=3, concurrent=2)

    async def work():
        store = connect("redis://127.0.0.1:1/0", "none", 1)
        for answers in (True, False):  # known to be down, and not known yet
            alone = limiter(store, answers=answers)
            first, _ = await taken(alone, one), await taken(alone, one)
            assert (await refusal(alone, one)).code == "concurrency_limit_reached"
            await first.release()
            await (await taken(alone, one)).release()
            assert (await refusal(alone, one)).code == "rate_limit_reached"
            assert alone.decided_alone == 5
        with pytest.raises(KeysUnavailableError):
            await taken(limiter(store, on_store_down="refuse"), one)
        await store.close()

    asyncio.run(work())


def test_a_redis_that_goes_away_finds_the_limits_known(shelf):
    """What was let in before counts after."""
    one = key(requests_per_minute=2)
    answers = [True]

    async def work(store):
        worker = Limiter(
            store,
            answers=lambda: answers[0],
            on_store_down="cached",
            monotonic_s=lambda: 0.0,
            new_id=lambda: f"lease{next(ids)}",
        )
        await taken(worker, one)
        await taken(worker, one)
        answers[0] = False
        assert (await refusal(worker, one)).code == "rate_limit_reached"

    shelf.run(work)


def test_a_redis_that_hangs_is_not_waited_for(shelf, monkeypatch):
    """A paused Redis holds a request up for a moment, then the worker decides by itself."""
    monkeypatch.setattr(key_limits, "ASK_WAIT_S", 0.1)
    one = key(concurrent=1)

    async def work(store):
        worker = limiter(store)
        await (await taken(worker, one)).release()
        shelf.client.execute_command("CLIENT", "PAUSE", "400")
        await taken(worker, one)
        assert worker.decided_alone == 1

    try:
        shelf.run(work)
    finally:
        with redis.Redis.from_url(shelf.url) as client:
            client.client_unpause()


def test_a_burst_of_requests_is_decided_and_given_back_by_redis(shelf, monkeypatch):
    """One of more requests than a client opens connections: none is taken for an outage, and no lease has to lapse."""
    monkeypatch.setattr(key_limits, "ASK_WAIT_S", 60.0)
    monkeypatch.setattr(key_limits, "RELEASE_WAIT_S", 60.0)
    one = key(concurrent=150)

    async def work(store):
        worker = limiter(store)
        leases = await asyncio.gather(*(taken(worker, one) for _ in range(150)))
        assert worker.decided_alone == 0
        await asyncio.gather(*(lease.release() for lease in leases))
        assert shelf.client.zcard(shelf.key(f"key_open:{one.id}")) == 0

    shelf.run(work)


@given(
    limit=st.integers(1, 4),
    gaps=st.lists(st.sampled_from([0.0, 1.0, 10.0, 29.0, 60.0]), max_size=40),
)
def test_no_minute_holds_more_than_the_limit(limit, gaps):
    """Of the local form, at any instant; and whoever waits as long as he was told is let in."""
    one, local, now_s, let_in = key(requests_per_minute=limit), LocalLimits(), 0.0, []
    for gap in gaps:
        now_s += gap
        verdict = local.verdict(one, now_s)
        if verdict.word == "in":
            local.enter(one, now_s)
            let_in.append(now_s)
        else:
            assert 0.0 < verdict.wait_s <= MINUTE_S
            assert local.verdict(one, now_s + verdict.wait_s).word == "in"
            local = LocalLimits()
            for at_s in let_in:
                local.enter(one, at_s)
    for start_s in let_in:
        assert sum(start_s <= at_s < start_s + MINUTE_S for at_s in let_in) <= limit
