"""The store against a real Redis: a batch is applied once and as a whole, or not at all."""

import asyncio
import contextlib
import time

import msgspec
import pytest
from ledger.given import NOW_S, added, encoded, field, record, wait_until

from proxy.errors import StoreUnavailableError
from proxy.ledger.answers import Applied, Behind, RefusedBatch
from proxy.ledger.families import series_field
from proxy.ledger.store import connect
from proxy.ledger.tally import DAY_S, Additions, Batch, Retention, fold, quarantine, rollup_hash, unreplayable
from proxy.usage import TokenUsage

RETENTION = Retention()
KEYS = ("journal:j", "series_seen", "sightings", "records", "record_index", "quarantine", "numbers", "totals")


def batch_of(*numbers, first=1, journal="j", retention=RETENTION, **changes):
    return fold(journal, first, [record(number, **changes) for number in numbers], retention)


def adding(fields, *, sums=None, more=()):
    """A batch that adds these fields to the totals, and `more` behind them."""
    return Batch("j", 1, 1, [Additions("totals", 0, fields), *more], sums or {}, {}, [], [])


def test_a_batch_is_applied_once(shelf):
    """Counters, records and the journal's number change together; the same batch again changes nothing at all."""
    batch = batch_of(1, 2, 3)

    assert shelf.run(lambda store: store.apply(batch)) == Applied(3)
    assert added([record(1), record(2), record(3)]) == shelf.totals()
    before = shelf.dump()
    assert shelf.run(lambda store: store.apply(batch)) == Behind(3)
    assert before == shelf.dump()


@pytest.mark.parametrize("first", [1, 2, 3, 5, 400])
def test_only_the_next_number_is_applied(shelf, first):
    """A batch that begins before or behind the next number changes nothing and learns the stored one."""
    shelf.run(lambda store: store.apply(batch_of(1, 2, 3)))
    before = shelf.dump()

    assert shelf.run(lambda store: store.apply(batch_of(8, first=first))) == Behind(3)
    assert before == shelf.dump()
    assert shelf.run(lambda store: store.numbers()) == {"j": 3}


def test_journals_are_counted_by_themselves(shelf):
    """Each journal has its own number; the counters are shared."""

    async def both(store):
        results = [await store.apply(batch_of(1, journal="a")), await store.apply(batch_of(2, journal="b"))]
        return results, await store.numbers(), (await store.books(["b"])).sums["b"]

    assert (
        [Applied(1), Applied(1)],
        {"a": 1, "b": 1},
        {"records": 1, "tokens": 13, "nano_usd": 26, "nano_cny": 8},
    ) == (shelf.run(both))
    assert added([record(1), record(2)]) == shelf.totals()
    assert shelf.hash("journal:b") == {
        b"records": b"1",
        b"tokens": b"13",
        b"nano_usd": b"26",
        b"nano_cny": b"8",
    }


@pytest.mark.parametrize("name", [*KEYS, "rollup:minute:1795399200", "spend:2026-11"])
def test_a_key_of_the_wrong_kind_refuses_the_batch(shelf, name):
    """Where a key holds something else, nothing is changed and the key is named."""
    now_s = int(time.time()) // 60 * 60
    name = name.replace("1795399200", str(now_s)).replace("2026-11", time.strftime("%Y-%m", time.gmtime(now_s)))
    shelf.client.set(shelf.key(name), "a string")
    before = shelf.dump()
    result = shelf.run(lambda store: store.apply(batch_of(1, pricing_instant_s=float(now_s))))

    assert isinstance(result, RefusedBatch)
    assert name in result.reason
    assert before == shelf.dump()


TOTAL = series_field("app_requests_total", "a", "V")


@pytest.mark.parametrize("spoilt", ["1.5", "x", "", "1e3", "1" * 19, "-" + "1" * 18, " 1"])
@pytest.mark.parametrize("place", ["totals", "spend:2026-11", "journal:j"])
def test_a_total_that_cannot_be_added_to_refuses_the_batch(shelf, place, spoilt):
    """A total that is no integer, or one of more than 18 digits, is found before the first write."""
    name = {"totals": TOTAL, "journal:j": "tokens"}.get(place, '["V","USD",1795399200]')
    shelf.client.hset(shelf.key(place), name, spoilt)
    before = shelf.dump()
    result = shelf.run(lambda store: store.apply(batch_of(1, pricing_instant_s=NOW_S)))

    assert isinstance(result, RefusedBatch)
    assert name in result.reason
    assert before == shelf.dump()


@pytest.mark.parametrize(
    "batch",
    [
        adding({"a": 1, "b": 10**18}),
        adding({"a": 1, "b": -(10**17)}),
        adding({str(number): 1 for number in range(1500)} | {"last": 10**18}),
        adding({"a": 1}, sums={"tokens": 10**18}),
        adding({"a": 1}, more=[Additions("rollup:day:0", 0, {"b": 10**18})]),
    ],
    ids=["total", "negative", "behind many", "sum", "rollup"],
)
def test_a_number_that_cannot_be_added_refuses_the_batch(shelf, batch):
    """A number of more than 18 digits, wherever it stands in the batch, changes nothing."""
    assert isinstance(shelf.run(lambda store: store.apply(batch)), RefusedBatch)
    assert shelf.dump() == {}


def test_a_sighting_that_cannot_be_read_refuses_the_batch(shelf):
    """What stands in the sightings is checked before the first write, too: a script that fails half-way counts twice."""
    shelf.client.hset(shelf.key("sightings"), field("V", "m", "fp", "alias"), "spoilt")
    before = shelf.dump()

    with contextlib.suppress(StoreUnavailableError):
        assert isinstance(shelf.run(lambda store: store.apply(batch_of(1))), RefusedBatch)

    assert before == shelf.dump()


def test_totals_are_added_exactly(shelf):
    """Eighteen digits are added to the last one; Lua's own numbers would lose it."""
    shelf.client.hset(shelf.key("totals"), "a", 10**17 + 1)

    assert shelf.run(lambda store: store.apply(adding({"a": 10**17 + 1, "b": 1}))) == Applied(1)
    assert {b"a": str(2 * 10**17 + 2).encode(), b"b": b"1"} == shelf.hash("totals")


def test_a_series_is_seen_from_its_first_value_on(shelf):
    """The instant of the first value is kept, in milliseconds, and later values leave it."""
    before_ms = time.time_ns() // 10**6
    shelf.run(lambda store: store.apply(batch_of(1)))
    first = shelf.hash("series_seen")
    time.sleep(0.002)
    shelf.run(lambda store: store.apply(batch_of(2, first=2, app="b")))
    both = shelf.hash("series_seen")

    assert first.keys() < both.keys() == shelf.hash("totals").keys()
    assert all(before_ms - 1 <= int(instant) <= time.time_ns() // 10**6 for instant in both.values())
    assert first == {name: both[name] for name in first}
    assert int(both[series_field("app_requests_total", "b", "V").encode()]) > int(first[TOTAL.encode()])


def sightings(shelf):
    return {
        name.decode(): [float(instant) for instant in value.split()] for name, value in shelf.hash("sightings").items()
    }


@pytest.mark.parametrize("ends", [(200.0, 100.0, 300.0, 150.0), (100.0, 300.0, 200.0), (7.25,)])
def test_a_sighting_keeps_its_first_and_its_last_instant(shelf, ends):
    """Whatever the order of the batches: the earliest and the latest end of an exchange."""
    for number, end_s in enumerate(ends, 1):
        shelf.run(lambda store, number=number, end_s=end_s: store.apply(batch_of(1, first=number, end_s=end_s)))

    assert {field("V", "m", "fp", "alias"): [min(ends), max(ends)]} == sightings(shelf)


def test_the_first_instant_is_kept_within_a_batch_too(shelf):
    """Of the records of one batch the earliest is the first sight of its version, however late the batch was sent."""
    batch = fold("j", 1, [record(1, end_s=200.0), record(2, end_s=100.0), record(3, end_s=300.0)], RETENTION)
    shelf.run(lambda store: store.apply(batch))

    assert {field("V", "m", "fp", "alias"): [100.0, 300.0]} == sightings(shelf)


def test_sightings_are_bounded(shelf):
    """An upstream that invents fingerprints fills no Redis: beyond 2000 only those known go on."""
    known = field("V", "m", "fp", "alias")
    shelf.client.hset(
        shelf.key("sightings"), mapping={known: "1.0 2.0", **{f"x{number}": "1.0 1.0" for number in range(1999)}}
    )
    shelf.run(lambda store: store.apply(batch_of(1, fingerprint="new")))
    shelf.run(lambda store: store.apply(batch_of(1, first=2, end_s=9.0)))

    assert shelf.client.hlen(shelf.key("sightings")) == 2000
    assert sightings(shelf)[known] == [1.0, 9.0]


def test_the_newest_records_are_kept_with_their_index(shelf):
    """The stream is cut at its cap and the index with it; a record is found by its id as it was written."""

    async def work(store):
        for first in (1, 5, 9):
            await store.apply(batch_of(*range(first, first + 4), first=first))
        return [await store.record(f"x-{number}") for number in range(1, 13)], await store.record("unheard-of")

    found, unknown = shelf.run(work, kept=5)

    assert [*[None] * 7, *[encoded(record(number)) for number in range(8, 13)]] == found
    assert unknown is None
    assert [f"x-{number}" for number in range(8, 13)] == shelf.records()
    assert {f"x-{number}".encode() for number in range(8, 13)} == set(shelf.hash("record_index"))


def test_a_batch_larger_than_the_cap_leaves_its_newest(shelf):
    """Also where one batch brings more than is kept."""
    shelf.run(lambda store: store.apply(batch_of(*range(1, 41))), kept=3)

    assert shelf.records() == ["x-38", "x-39", "x-40"]
    assert shelf.client.hlen(shelf.key("record_index")) == 3


def test_no_records_are_kept_where_none_are_wanted(shelf):
    """A cap of 0 keeps counters only."""
    shelf.run(lambda store: store.apply(batch_of(1, 2)), kept=0)

    assert (shelf.records(), shelf.hash("record_index")) == ([], {})
    assert added([record(1), record(2)]) == shelf.totals()


def test_expired_rollups_are_skipped_and_totals_are_not(shelf):
    """A late record is in the totals and the day, and not in buckets that would be gone by now."""
    old_s = time.time() - 400 * DAY_S
    shelf.run(lambda store: store.apply(batch_of(1, pricing_instant_s=old_s)))
    kinds = {key.decode().split(":")[3] for key in shelf.dump() if b":rollup:" in key}

    assert kinds == {"day"}
    assert not [key for key in shelf.dump() if b":spend:" in key]
    assert added([record(1)]) == shelf.totals()


def test_only_what_has_an_end_expires(shelf):
    """Rollups and spend end when they are to; totals, days, numbers and records stay."""
    now_s = int(time.time()) // 60 * 60
    batch = batch_of(1, pricing_instant_s=float(now_s))
    shelf.run(lambda store: store.apply(batch))
    ends = {shelf.key(addition.hash).encode(): addition.expires_s or -1 for addition in batch.additions}
    found = {key: expires for key, (_, expires) in shelf.dump().items()}

    assert ends.items() <= found.items()
    assert {-1} == {expires for key, expires in found.items() if key not in ends}
    assert sum(expires > 0 for expires in found.values()) == 3


def test_the_spend_of_a_month_does_not_end_while_it_is_needed(shelf):
    """A late record of the month's first day leaves its hash to the end of the next month, whatever came before."""
    now_s = time.time()
    for number, instant in enumerate((now_s, now_s - 3 * DAY_S), 1):
        shelf.run(lambda store, number=number, at=instant: store.apply(batch_of(1, first=number, pricing_instant_s=at)))

    assert all(expires > now_s + 62 * DAY_S for key, (_, expires) in shelf.dump().items() if b":spend:" in key)


def test_what_is_set_aside_is_kept(shelf):
    """A record in quarantine is counted, stepped over and kept as it was written."""

    async def work(store):
        return [await store.apply(quarantine("j", 1, b'{"not": 1}')), await store.apply(unreplayable("j", 2, 11))]

    assert [Applied(1), Applied(11)] == shelf.run(work)
    assert shelf.totals() == {("records_quarantined_total",): 1, ("records_unreplayable_total",): 10}
    assert [fields for _, fields in shelf.client.xrange(shelf.key("quarantine"))] == [{b"record": b'{"not": 1}'}]


def test_a_large_batch_is_applied(shelf):
    """Thousands of fields and records go through: commands are cut to what Lua's stack holds."""
    batch = fold("j", 1, [record(number, app=f"app {number}", model='m"\n🚢') for number in range(1, 3001)], RETENTION)

    assert shelf.run(lambda store: store.apply(batch), kept=2000) == Applied(3000)
    assert sum(shelf.totals().values()) == sum(added(record(n, app=f"app {n}") for n in range(1, 3001)).values())
    assert (shelf.records()[0], len(shelf.records())) == ("x-1001", 2000)


def test_a_snapshot_is_all_counters_at_one_instant(shelf):
    """Totals, sightings, first sights, the spend asked for, Redis' time and the epoch."""

    async def work(store):
        epoch = await store.prepare()
        await store.apply(batch_of(1, pricing_instant_s=time.time()))
        month = time.strftime("spend:%Y-%m", time.gmtime())
        return epoch, month, await store.snapshot((month, "spend:1999-01"))

    epoch, month, found = shelf.run(work)

    assert (shelf.hash("totals"), shelf.hash("series_seen")) == (found.totals, found.series_seen_ms)
    assert (shelf.hash("sightings"), (shelf.hash(month), {})) == (found.sightings, found.spend)
    assert (epoch, True) == (found.epoch, abs(found.taken_s - time.time()) < 60)


def test_a_snapshot_of_nothing_is_empty(shelf):
    """A Redis nobody has written to shows no counters and no epoch."""
    found = shelf.run(lambda store: store.snapshot())

    assert (found.epoch, found.totals, found.series_seen_ms, found.sightings, found.spend) == (0, {}, {}, {}, ())


def test_an_epoch_is_made_once(shelf):
    """The first to come gives the epoch, an instant; whoever comes later finds it."""
    shelf.client.delete(shelf.key("epoch"))
    first = shelf.run(lambda store: store.prepare())
    shelf.client.set(shelf.key("epoch"), first - 1000)

    assert abs(first - time.time()) < 60
    assert first - 1000 == shelf.run(lambda store: store.prepare())


def test_a_redis_that_may_lose_money_is_doubted(shelf, client):
    """Eviction and missing persistence are named; an append-only file or save points are enough."""
    doubts = lambda: shelf.run(lambda store: store.doubts())  # noqa: E731 - asked five times
    try:
        assert doubts() == []
        client.config_set("maxmemory-policy", "allkeys-lru")
        assert doubts() == []
        client.config_set("maxmemory", "100mb")
        assert doubts() == ["it may evict keys (maxmemory-policy allkeys-lru); set noeviction"]
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "no")
        assert doubts() == ["it does not persist (no append-only file, no save points); set appendonly yes"]
        client.config_set("save", "3600 1")
        assert doubts() == []
    finally:
        for name, value in (
            ("maxmemory", "0"),
            ("save", ""),
            ("appendonly", "yes"),
            ("maxmemory-policy", "noeviction"),
        ):
            client.config_set(name, value)
        wait_until(lambda: not rewriting(client))


def rewriting(client):
    """A Redis that still writes its first append-only file does not let itself be stopped."""
    found = client.info("persistence")
    return found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"]


def test_a_redis_that_is_too_old_is_refused(shelf, monkeypatch):
    """Before 6.2 scripts and streams lack what is needed; the message says which version is."""
    monkeypatch.setattr("proxy.ledger.store.OLDEST_VERSION", (99, 0))

    with pytest.raises(StoreUnavailableError, match="too old"):
        shelf.run(lambda store: store.prepare())


@pytest.mark.parametrize("url", ["http://here", "nonsense", "redis://h:port/0"])
def test_an_address_that_is_none_is_refused(url):
    """A URL no Redis can have is an error that names the setting."""
    with pytest.raises(StoreUnavailableError, match=r"\[store\] redis_url"):
        connect(url, "n", 1)


def test_a_redis_that_does_not_answer_is_one_error(tmp_path):
    """Whatever is asked of a Redis that is not there: one error of ours."""

    async def ask_everything():
        store = connect(f"unix://{tmp_path}/none.sock", "n", 1)
        asked = [
            store.prepare(),
            store.doubts(),
            store.apply(batch_of(1)),
            store.compare("j", 0, 0),
            store.snapshot(),
            store.record("x"),
            store.clock_offset_s(0.0),
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await store.close()
        return {type(answer) for answer in answers}

    assert asyncio.run(ask_everything()) == {StoreUnavailableError}


def test_the_clocks_are_compared(shelf):
    """A clock a hundred seconds ahead of Redis' is told so."""
    offset = shelf.run(lambda store: store.clock_offset_s(time.time() + 100))

    assert abs(offset - 100) < 5


def test_installations_share_a_redis_without_meeting(shelf):
    """Every key begins with the namespace, in one hash slot, so nothing is written beside it."""
    others = {key for key in shelf.client.scan_iter("*") if not key.startswith(shelf.key("").encode())}
    shelf.run(lambda store: store.prepare())
    shelf.run(lambda store: store.apply(batch_of(1, pricing_instant_s=time.time())))
    found = {key for key in shelf.client.scan_iter("*") if not key.startswith(shelf.key("").encode())}

    assert others == found
    assert len(shelf.dump()) >= 9


def test_numbers_without_measure_are_refused_not_rounded(shelf):
    """A record whose counts are beyond what a counter takes is refused as a whole."""
    one = msgspec.structs.replace(record(1), usage=TokenUsage(input_cache_miss=10**18))

    assert isinstance(shelf.run(lambda store: store.apply(fold("j", 1, [one], RETENTION))), RefusedBatch)
    assert shelf.dump() == {}


def test_several_hashes_are_read_together_in_the_order_asked(shelf):
    """One that is not there is empty."""
    shelf.run(lambda store: store.apply(batch_of(1, 2)))
    day = rollup_hash("day", int(NOW_S) // DAY_S * DAY_S)
    found = shelf.run(lambda store: store.hashes([day, "nowhere", "totals"]))

    assert found == (shelf.hash(day), {}, shelf.hash("totals"))
    assert found[0]
    assert shelf.run(lambda store: store.hashes([])) == ()
