"""A disk that refuses a journal: what waits, what is written later, what clients are told; nothing twice and nothing lost."""

import asyncio
import os
import threading

import pytest
from ledger.at_work import failing, keep, mark, running
from ledger.given import added, record, until

from proxy.errors import JournalUnwritableError

pytestmark = pytest.mark.usefixtures("quick_pace")


def test_a_disk_that_refuses_is_waited_for(shelf, journals, monkeypatch):
    """Records wait in memory, in their order, and go to the disk with the next one that it takes."""

    async def work():
        async with running(shelf, journals) as ledger:
            keep(ledger, 1)
            with failing(monkeypatch, "write"):
                keep(ledger, 2, 3)
            held = ledger.writable, ledger.pending_records >= 2, ledger.faults
            keep(ledger, 4)
            await until(lambda: not ledger.pending_records)
            return held, ledger.writable

    assert asyncio.run(work()) == ((False, True, {"journal": 2}), True)
    assert shelf.records() == ["x-1", "x-2", "x-3", "x-4"]
    assert added(map(record, (1, 2, 3, 4))) == shelf.totals()


def test_what_the_disk_refused_is_written_without_waiting_for_more(shelf, journals, monkeypatch):
    """A worker that gets no more traffic (it is not ready, says its health) writes down what it holds by itself."""

    async def work():
        async with running(shelf, journals) as ledger:
            with failing(monkeypatch, "write"):
                keep(ledger, 1, 2)
            await until(lambda: ledger.writable, seconds=2)

    asyncio.run(work())

    assert added(map(record, (1, 2))) == shelf.totals()


def test_what_the_disk_refused_is_not_lost_by_a_stop(shelf, journals, monkeypatch):
    """A stop in good order writes down what waits in memory."""

    async def work():
        async with running(shelf, journals) as ledger:
            with failing(monkeypatch, "write"):
                keep(ledger, 1, 2)

    asyncio.run(work())

    assert added(map(record, (1, 2))) == shelf.totals()


@pytest.mark.parametrize("fsync", ["interval", "always"])
def test_a_failed_fsync_counts_nothing_twice(shelf, journals, monkeypatch, fsync):
    """A record that is written and could not be forced to the disk at once is counted once, later."""

    async def work():
        async with running(shelf, journals, fsync=fsync) as ledger:
            keep(ledger, 1)
            await until(lambda: not ledger.pending_records)
            with failing(monkeypatch, "fsync", times=1):
                keep(ledger, 2)
                await until(lambda: ledger.faults)
            keep(ledger, 3)
            await until(lambda: not ledger.pending_records)

    asyncio.run(work())

    assert shelf.records() == ["x-1", "x-2", "x-3"]
    assert added(map(record, (1, 2, 3))) == shelf.totals()


def test_memory_for_refused_records_has_an_end(shelf, journals, monkeypatch):
    """Beyond the cap the oldest go, each counted as lost."""
    monkeypatch.setattr("proxy.ledger.ledger.MAX_UNWRITTEN", 3)

    async def work():
        async with running(shelf, journals) as ledger:
            with failing(monkeypatch, "write"):
                keep(ledger, 1, 2, 3, 4, 5)
            keep(ledger, 6)
            await until(lambda: not ledger.pending_records)
            return ledger.faults

    assert asyncio.run(work()) == {"journal": 5, "record_lost": 2}
    assert shelf.records() == ["x-3", "x-4", "x-5", "x-6"]


@pytest.mark.parametrize("policy", ["relay", "refuse"])
def test_an_unwritable_journal_refuses_only_where_that_is_set(shelf, journals, monkeypatch, policy):
    """By default the exchange goes on and the fault is counted; with `refuse` the client gets a 503."""

    async def work():
        async with running(shelf, journals, on_unwritable=policy) as ledger:
            with failing(monkeypatch, "write"):
                if policy == "refuse":
                    with pytest.raises(JournalUnwritableError) as refused:
                        ledger.begin(mark("x-1"))
                    assert refused.value.status == 503
                else:
                    ledger.begin(mark("x-1"))
            ledger.begin(mark("x-2"))
            return ledger.faults

    assert asyncio.run(work()) == {"journal": 1}


def test_no_fsync_is_waited_for_on_the_data_path(shelf, journals, monkeypatch):
    """With the `interval` policy every fsync runs in another thread than the streams."""
    threads = []
    real = os.fsync
    monkeypatch.setattr("proxy.ledger.journal.os.fsync", lambda fd: (threads.append(threading.get_ident()), real(fd)))

    async def work():
        async with running(shelf, journals) as ledger:
            await asyncio.sleep(0.05)
            threads.clear()
            for number in range(1, 30):
                ledger.begin(mark(f"x-{number}"))
                keep(ledger, number)
                await asyncio.sleep(0.001)
            await until(lambda: not ledger.pending_records)
            return list(threads)

    assert threading.get_ident() not in asyncio.run(work())
