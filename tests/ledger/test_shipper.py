"""Journals into a real Redis: each number once, whatever is sent again, torn, rolled back or taken over."""

import asyncio
import random
from functools import partial

import pytest
from ledger.given import added, encoded, record

from proxy.errors import StoreUnavailableError
from proxy.ledger.journal import JournalDamagedError, JournalReader, JournalWriter, segments
from proxy.ledger.shipper import BATCH_RECORDS, JournalShipper, StoreRefusesError
from proxy.ledger.tally import Retention
from proxy.usage import TokenUsage

LOST, ASIDE = ("records_unreplayable_total",), ("records_quarantined_total",)


class Shaky:
    """A store whose connection breaks now and then, before the batch is applied or before the answer is heard."""

    def __init__(self, store, chance):
        self.store = store
        self.chance = chance

    async def apply(self, batch, epoch, *, replayed=False):
        mishap = self.chance.random()
        if mishap < 0.2:
            raise StoreUnavailableError("broke before")
        result = await self.store.apply(batch, epoch, replayed=replayed)
        if mishap < 0.4:
            raise StoreUnavailableError("broke behind")
        return await self.store.apply(batch, epoch, replayed=replayed) if mishap < 0.5 else result

    async def settle(self, place, offer, at_s):
        if self.chance.random() < 0.2:
            raise StoreUnavailableError("broke")
        return await self.store.settle(place, offer, at_s)

    async def compare(self, journal_id, epoch, highest):
        if self.chance.random() < 0.2:
            raise StoreUnavailableError("broke")
        return await self.store.compare(journal_id, epoch, highest)


@pytest.fixture
def journal(tmp_path):
    """A journal of small segments, and a way to write to it."""
    writer = JournalWriter(tmp_path, "j", 4096)
    yield writer
    writer.close()


def write(journal, *numbers):
    for number in numbers:
        journal.append(encoded(record(number)))


def ship(shelf, journal, last=None, **options):
    """Ship the journal with a new shipper; the shipper."""

    async def work(store):
        shipper = JournalShipper(JournalReader(journal.path), store, Retention())
        try:
            await shipper.ship(journal.number if last is None else last, **options)
        finally:
            shipper.close()
        return shipper

    return shelf.run(work)


def test_a_journal_is_shipped_in_batches(shelf, journal):
    """More records than one batch holds arrive in order, each once."""
    numbers = range(1, 2 * BATCH_RECORDS + 20)
    write(journal, *numbers)

    assert ship(shelf, journal).applied == numbers[-1]
    assert added(map(record, numbers)) == shelf.totals()
    assert [f"x-{number}" for number in numbers[-100:]] == shelf.records()


def test_only_what_is_asked_for_is_shipped(shelf, journal):
    """What is not yet forced to the disk stays behind."""
    write(journal, 1, 2, 3, 4)

    assert ship(shelf, journal, last=3).applied == 3
    assert added(map(record, (1, 2, 3))) == shelf.totals()


@pytest.mark.parametrize("seed", range(12))
def test_every_number_is_counted_once_whatever_happens(shelf, journal, seed):
    """Broken connections before and behind an apply, batches sent twice, restarts, two owners at once: plain sums."""
    chance = random.Random(seed)

    async def work(store):
        shaky = Shaky(store, chance)

        def start():
            return JournalShipper(JournalReader(journal.path), shaky, Retention())

        shippers = [start(), start()]
        written = 0
        for _ in range(60):
            at = chance.randrange(2)
            match chance.randrange(5):
                case 0:
                    shippers[at].close()
                    shippers[at] = start()
                case 1:
                    new = range(written + 1, written + chance.randrange(1, 8))
                    write(journal, *new)
                    written += len(new)
                case _:
                    batches = iter([True, chance.random() < 0.5])
                    try:
                        await shippers[at].ship(chance.randint(0, written), partial(next, batches, False))
                    except StoreUnavailableError:
                        continue
        final = JournalShipper(JournalReader(journal.path), store, Retention())
        await final.ship(written)
        for shipper in (*shippers, final):
            shipper.close()
        return written

    written = shelf.run(work, kept=1000)

    assert added(record(number) for number in range(1, written + 1)) == shelf.totals()
    assert [f"x-{number}" for number in range(1, written + 1)] == shelf.records()
    assert shelf.hash("journal:j")[b"records"] == str(written).encode()


def test_what_redis_has_forgotten_is_sent_again(shelf, journal):
    """A Redis that went back to an earlier state is brought up to date by the next comparison."""
    write(journal, *range(1, 11))
    ship(shelf, journal)
    earlier = shelf.dump()
    write(journal, *range(11, 31))

    async def work(store):
        shipper = JournalShipper(JournalReader(journal.path), store, Retention())
        await shipper.ship(30)
        shelf.restore(earlier)
        await shipper.ship(30)
        before = shipper.applied, (await store.numbers())["j"]
        await shipper.compare()
        await shipper.ship(30)
        shipper.close()
        return before, shipper.applied

    assert shelf.run(work) == ((30, 10), 30)
    assert added(record(number) for number in range(1, 31)) == shelf.totals()


def test_a_store_that_went_back_is_noticed_by_the_next_batch(shelf, journal):
    """Also without a comparison: the refused batch says where the store stands, and shipping goes on from there."""
    write(journal, *range(1, 11))

    async def work(store):
        shipper = JournalShipper(JournalReader(journal.path), store, Retention())
        await shipper.ship(10)
        shelf.restore({})
        write(journal, 11)
        await shipper.ship(11)
        shipper.close()

    shelf.run(work)

    assert added(record(number) for number in range(1, 12)) == shelf.totals()
    assert set(shelf.hash("series_seen").values()) == {b"0"}  # shown before: not held at zero once more


@pytest.mark.parametrize(
    "payload",
    [b"not JSON", b"\xff\xfe", b"{}", b"[]", b"", b'{"exchange_id": "\xff"}', b'{"exchange_id": 5}'],
)
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_line_that_is_no_record_is_set_aside(shelf, journal, payload, at):
    """It is counted and kept; the records before and behind it go through."""
    lines = [encoded(record(number)) for number in (1, 2, 3, 4)]
    for line in [*lines[:at], payload, *lines[at:]]:
        journal.append(line)

    assert ship(shelf, journal).applied == 5
    assert added(map(record, (1, 2, 3, 4))) | {ASIDE: 1} == shelf.totals()
    assert shelf.client.xlen(shelf.key("quarantine")) == 1


def test_a_record_the_store_cannot_add_is_found_and_set_aside(shelf, journal):
    """One record of a batch that is beyond measure is found by halving; the other nineteen are counted."""
    write(journal, *range(1, 14))
    journal.append(encoded(record(14, usage=TokenUsage(10**18, 0, 0, 0))))
    write(journal, *range(15, 21))

    assert ship(shelf, journal).applied == 20
    good = [record(number) for number in range(1, 21) if number != 14]
    assert added(good) | {ASIDE: 1} == shelf.totals()


def test_a_store_that_takes_nothing_stops_the_shipping(shelf, journal):
    """Where even the count of what was set aside cannot be added, nothing is stepped over."""
    shelf.client.set(shelf.key("totals"), "not ours")
    write(journal, 1, 2, 3)

    with pytest.raises(StoreRefusesError, match="refuses every batch"):
        ship(shelf, journal)
    assert shelf.hash("journal:j") == {}


@pytest.mark.parametrize("gone", ["first", "middle"])
def test_records_whose_segment_is_gone_are_entered_as_lost(shelf, journal, gone):
    """The numbers of a missing file are counted as lost, and what stands behind them is counted."""
    write(journal, *range(1, 31))
    found = list(segments(journal.path))
    assert len(found) >= 4
    place = 0 if gone == "first" else 1
    found[place][1].unlink()
    missing = set(range(found[place][0], found[place + 1][0]))

    assert ship(shelf, journal).applied == 30
    kept = [record(number) for number in range(1, 31) if number not in missing]
    assert added(kept) | {LOST: len(missing)} == shelf.totals()


def test_what_stands_before_a_damaged_line_is_shipped(shelf, journal):
    """The damage stops the shipping by name; the records before it are in the counters."""
    write(journal, 1, 2, 3, 4, 5)
    file = next(segments(journal.path))[1]
    file.write_bytes(file.read_bytes().replace(b'"x-4"', b'"x-!"'))

    with pytest.raises(JournalDamagedError, match="line 4"):
        ship(shelf, journal)
    assert added(map(record, (1, 2, 3))) == shelf.totals()


def test_a_journal_the_store_is_ahead_of_ships_nothing(shelf, journal):
    """Where the store knows more than is left of the journal, nothing is sent."""
    write(journal, 1, 2, 3)
    ship(shelf, journal)
    before = shelf.dump()

    assert ship(shelf, journal, last=2).applied == 3
    assert before == shelf.dump()


def test_a_store_that_is_away_is_one_error_and_nothing_is_lost(shelf, journal):
    """The error goes to the caller; the next try finds everything still to be sent."""
    write(journal, 1, 2)

    class Away:
        async def compare(self, journal_id, epoch, highest):
            raise StoreUnavailableError("away")

    shipper = JournalShipper(JournalReader(journal.path), Away(), Retention())
    with pytest.raises(StoreUnavailableError):
        asyncio.run(shipper.ship(2))
    shipper.close()

    assert shipper.applied == -1
    assert ship(shelf, journal).applied == 2
