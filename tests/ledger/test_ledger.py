"""The ledger of a worker against a real Redis: what is recorded arrives once, whatever is away meanwhile."""

import asyncio
import os

import pytest
import redis
from ledger.at_work import QUICK, abandoned, keep, mark, running
from ledger.given import Shelf, added, encoded, record, recovered, until

from proxy.ledger import embedded
from proxy.ledger.journal import JournalWriter, journals_in, lock_abandoned, segments
from proxy.ledger.ledger import Ledger
from proxy.ledger.recovery import recover
from proxy.ledger.tally import Retention
from proxy.settings import JournalSettings

pytestmark = pytest.mark.usefixtures("quick_pace")


@pytest.mark.parametrize("fsync", ["interval", "always", "never"])
def test_records_arrive(shelf, journals, fsync):
    """Whatever the policy of fsync, what was recorded is soon in the counters, and nothing is pending then."""

    async def work():
        async with running(shelf, journals, fsync=fsync) as ledger:
            keep(ledger, 1, 2, 3)
            assert ledger.pending_records == 3
            await until(lambda: not ledger.pending_records)
            return ledger

    ledger = asyncio.run(work())

    assert added(map(record, (1, 2, 3))) == shelf.totals()
    assert (ledger.faults, ledger.writable, ledger.oldest_pending_s()) == ({}, True, 0.0)


def test_stopping_ships_what_is_left(shelf, journals):
    """A stop comes after the last record: it is in the counters, and the journal can be adopted."""

    async def work():
        async with running(shelf, journals) as ledger:
            keep(ledger, *range(1, 300))

    asyncio.run(work())

    assert added(map(record, range(1, 300))) == shelf.totals()
    lock = lock_abandoned(journals / "own")
    assert lock is not None
    os.close(lock)


def test_a_redis_that_is_down_for_a_while_loses_nothing(tmp_path, journals):
    """Records go on being kept while Redis is gone; back on its files, it has each of them once."""
    server = embedded.find_server()
    first = embedded.start(tmp_path, server)
    revived = []

    async def work():
        client = redis.Redis.from_url(first.url)
        async with running(Shelf(first.url, client, "n"), journals) as ledger:
            keep(ledger, *range(1, 40))
            await until(lambda: not ledger.pending_records)
            first.stop()
            for number in range(40, 80):
                keep(ledger, number)
                await asyncio.sleep(0.001)
            await until(lambda: not ledger._store_answers)
            away = ledger.pending_records, ledger.writable
            revived.append(embedded.start(tmp_path, server))
            keep(ledger, *range(80, 120))
            await until(lambda: not ledger.pending_records)
        totals = Shelf(first.url, client, "n").totals()
        client.close()
        return away, totals, ledger.faults

    try:
        away, totals, faults = asyncio.run(work())
    finally:
        for one in (first, *revived):
            one.stop()

    assert away == (40, True)
    assert added(map(record, range(1, 120))) == totals
    assert faults == {}


def test_a_redis_that_went_back_is_caught_up_with(shelf, journals):
    """What Redis has forgotten is sent again by itself, from the journals that are kept."""

    async def work():
        async with running(shelf, journals) as ledger:
            keep(ledger, 1, 2, 3)
            await until(lambda: not ledger.pending_records)
            earlier = shelf.dump()
            keep(ledger, 4, 5)
            await until(lambda: not ledger.pending_records)
            shelf.restore(earlier)
            await until(lambda: len(shelf.records()) == 5)

    asyncio.run(work())

    assert added(map(record, range(1, 6))) == shelf.totals()


def test_abandoned_journals_are_drained(shelf, journals):
    """What other lives have left is shipped, once, and their journals go when they are old enough; one in use is left."""
    abandoned(journals, "life-1", 1, 2, 3)
    abandoned(journals, "life-2")
    alive = JournalWriter(journals, "life-3", 4096)
    alive.append(encoded(record(9)))

    async def work():
        async with running(shelf, journals, keep_seconds=0) as ledger:
            keep(ledger, 4)
            await until(lambda: {path.name for path in journals_in(journals)} == {"own", "life-3"})
            return ledger.faults

    faults = asyncio.run(work())
    alive.close()

    assert added(map(record, (1, 2, 3, 4))) == shelf.totals()
    assert faults == {}


def test_a_drained_journal_is_kept_for_a_replay(shelf, journals):
    """Until it is old, an adopted journal stays, and is sent again to a Redis that has lost it."""
    path = abandoned(journals, "life-1", 1, 2, 3)

    async def work():
        async with running(shelf, journals):
            await until(lambda: len(shelf.records()) == 3)
            shelf.restore({})
            await until(lambda: len(shelf.records()) == 3)

    asyncio.run(work())

    assert added(map(record, (1, 2, 3))) == shelf.totals()
    assert path.is_dir()


def test_a_line_that_is_no_record_does_not_hold_up_the_others(shelf, journals):
    """In an adopted journal too it is set aside, and everything else is counted."""
    abandoned(journals, "life-1", 1, 2, extra=[b"no record", encoded(record(3))])

    async def work():
        async with running(shelf, journals) as ledger:
            keep(ledger, 4)
            await until(lambda: len(shelf.records()) == 4)

    asyncio.run(work())

    assert added(map(record, (1, 2, 3, 4))) | {("records_quarantined_total",): 1} == shelf.totals()


@pytest.mark.parametrize("line", [2, 4])
def test_a_damaged_journal_does_not_hold_up_the_others(shelf, journals, line):
    """An adopted journal is shipped up to its damage, which is counted and kept; the own journal goes on."""
    path = abandoned(journals, "life-1", 1, 2, 3, 4)
    file = next(segments(path))[1]
    file.write_bytes(file.read_bytes().replace(b'"x-%d"' % line, b'"x-!"'))

    async def work():
        async with running(shelf, journals, keep_seconds=0) as ledger:
            keep(ledger, 9)
            await until(lambda: "x-9" in shelf.records())
            await until(lambda: len(shelf.records()) == line, seconds=2)
            return ledger.faults

    faults = asyncio.run(work())

    assert added(map(record, (*range(1, line), 9))) == shelf.totals()
    assert faults["ship"] > 0
    assert file.exists()


def test_missing_segments_of_a_journal_are_entered_as_lost(shelf, journals):
    """Records Redis never had and whose file is gone are counted as lost, and those behind them are counted."""
    path = abandoned(journals, "life-1", *range(1, 31))
    (_, file), (second, _), *_ = segments(path)
    file.unlink()

    async def work():
        async with running(shelf, journals):
            await until(lambda: len(shelf.records()) == 31 - second)

    asyncio.run(work())

    assert added(map(record, range(second, 31))) | {("records_unreplayable_total",): second - 1} == shelf.totals()


@pytest.mark.parametrize("keeping", [{"keep_seconds": 0}, {"keep_bytes": 0}, {"keep_seconds": 0, "keep_bytes": 0}])
def test_retention_drops_what_is_applied_and_old(shelf, journals, keeping):
    """Applied segments go when they are too old or too much; the newest stays, and so does the way on."""

    async def work():
        async with running(shelf, journals, **keeping) as ledger:
            keep(ledger, *range(1, 60))
            await until(lambda: len(list(segments(journals / "own"))) == 1)
            keep(ledger, 60)
            await until(lambda: not ledger.pending_records)
            return ledger.faults

    faults = asyncio.run(work())

    assert added(map(record, range(1, 61))) == shelf.totals()
    assert faults == {}


def test_retention_keeps_what_is_young(shelf, journals):
    """Within the time and the size that are kept nothing goes."""

    async def work():
        async with running(shelf, journals) as ledger:
            keep(ledger, *range(1, 60))
            await until(lambda: not ledger.pending_records)
            await asyncio.sleep(0.05)

    asyncio.run(work())

    assert next(segments(journals / "own"))[0] == 1
    assert len(list(segments(journals / "own"))) > 5


def test_retention_keeps_what_is_not_applied(journals, tmp_path):
    """Without a store nothing is applied, so nothing goes, however old."""

    async def work():
        async with running(
            Shelf(f"unix://{tmp_path}/none.sock", None, "n"), journals, keep_seconds=0, keep_bytes=0
        ) as ledger:
            keep(ledger, *range(1, 60))
            await until(lambda: not ledger._store_answers)
            await asyncio.sleep(0.05)
            return ledger.pending_records

    assert asyncio.run(work()) == 59
    assert next(segments(journals / "own"))[0] == 1


def test_a_drop_takes_only_what_lies_before_the_applied_number(shelf, journals):
    """Of several segments only those that are applied to their last line go."""

    async def work():
        async with shelf.store() as store:
            ledger = Ledger(
                store, journals, "own", JournalSettings(**QUICK, keep_seconds=0), Retention(), recover_record=recovered
            )
            keep(ledger, *range(1, 60))
            firsts = [first for first, _ in segments(journals / "own")]
            ledger._wall_s = lambda: 10**12
            ledger._shipper.applied = firsts[2]
            ledger._drop_old_segments(journals / "own", ledger._shipper, keep_newest=True)
            left = [first for first, _ in segments(journals / "own")]
            ledger.stop()
            await ledger.run()
            return firsts, left

    firsts, left = asyncio.run(work())

    assert firsts[2:] == left


def test_the_age_of_what_is_pending(journals, tmp_path):
    """The oldest record that is not in the counters tells the age; with nothing pending it is 0."""
    clock = [1000.0]

    async def work():
        async with Shelf(f"unix://{tmp_path}/none.sock", None, "n").store() as store:
            ledger = Ledger(
                store,
                journals,
                "own",
                JournalSettings(),
                Retention(),
                recover_record=recovered,
                wall_s=lambda: clock[0],
            )
            ages = [ledger.oldest_pending_s()]
            for at, number in ((1000.0, 1), (1005.0, 2), (1008.0, 3)):
                clock[0] = at
                ledger.record(record(number, end_s=at))
            for applied in (-1, 0, 1, 2, 3):
                clock[0] = 1010.0
                ledger._shipper.applied = applied
                ages.append(ledger.oldest_pending_s())
            ledger.stop()
            await ledger.run()
            return ages

    assert asyncio.run(work()) == [0.0, 10.0, 10.0, 5.0, 2.0, 0.0]


def test_a_fault_is_counted_by_its_stage(shelf, journals):
    """Faults are counts per stage, for the worker's report."""

    async def work():
        async with running(shelf, journals) as ledger:
            for stage in ("feed", "feed", "record"):
                ledger.fault(stage, ValueError("spoilt"))
            return dict(ledger.faults)

    assert asyncio.run(work()) == {"feed": 2, "record": 1}


def test_a_ledger_that_cannot_open_its_journal_says_so(shelf, journals):
    """A data dir that cannot be written to is an error at the start, not at the first record."""
    journals.parent.mkdir(exist_ok=True)
    journals.write_text("a file")

    async def work():
        async with shelf.store() as store:
            return Ledger(store, journals, "own", JournalSettings(), Retention(), recover_record=recovered)

    with pytest.raises(OSError, match="journals"):
        asyncio.run(work())


def test_what_was_open_at_a_death_becomes_records(shelf, journals):
    """Begun and never ended: one `interrupted` record each, also when an adopter died after having written them."""
    writer = JournalWriter(journals, "life-1", 4096)
    for name in ("x-1", "open-1", "x-2", "open-2"):
        writer.begin(name, encoded(mark(name)))
    writer.append(encoded(record(1)), "x-1")
    writer.append(encoded(record(2)), "x-2")
    writer.close()
    recover(writer.path, recovered, 4096)
    (writer.path / "recovered").unlink()  # the adopter died before it could note that it was done

    async def work(name):
        async with running(shelf, journals, name):
            await until(lambda: len(shelf.records()) == 4)

    asyncio.run(work("life-2"))
    asyncio.run(work("life-3"))

    assert sorted(shelf.records()) == ["open-1", "open-2", "x-1", "x-2"]
    assert shelf.totals()["requests_total", "default", "V", "m", "chat", "interrupted"] == 2


def test_an_own_journal_goes_on_behind_its_damage(shelf, journals):
    """The rest of the damaged segment is entered as lost, the file is kept, and what comes later is counted."""

    async def work():
        async with running(shelf, journals, keep_seconds=0) as ledger:
            keep(ledger, 1, 2)
            await until(lambda: len(shelf.records()) == 2)
            shelf.client.client_pause(400)
            keep(ledger, 3, 4)
            file = next(segments(journals / "own"))[1]
            file.write_bytes(file.read_bytes().replace(b'"x-3"', b'"x-!"'))
            ledger._shipper._fresh.clear()  # what was just written would be shipped out of memory
            await until(lambda: ledger.faults.get("ship"))
            await asyncio.sleep(0.2)  # many comparisons later it is still one report
            assert ledger.faults["ship"] == 1
            keep(ledger, 5)
            await until(lambda: "x-5" in shelf.records())
            await until(lambda: not ledger.pending_records)

    asyncio.run(work())

    assert added(map(record, (1, 2, 5))) | {("records_unreplayable_total",): 2} == shelf.totals()
    assert list((journals / "own").glob("*.damaged"))
