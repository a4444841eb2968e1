"""A ledger at work for a test: started, fed, stopped; journals of the dead; and a disk that refuses."""

import asyncio
import errno
import os
from contextlib import asynccontextmanager, contextmanager

from ledger.given import encoded, record, recovered

from proxy.ledger.journal import JournalWriter
from proxy.ledger.ledger import Ledger
from proxy.ledger.tally import Retention
from proxy.settings import JournalSettings
from proxy.usage import Api, BegunMark

QUICK = {"fsync_interval_seconds": 0.005, "segment_bytes": 4096}


@asynccontextmanager
async def running(shelf, journals, name="own", **settings):
    """A ledger at work; stopped at the end, with everything shipped that can be."""
    async with shelf.store(kept=1000) as store:
        ledger = Ledger(
            store, journals, name, JournalSettings(**{**QUICK, **settings}), Retention(), recover_record=recovered
        )
        task = asyncio.create_task(ledger.run())
        try:
            yield ledger
        finally:
            ledger.stop()
            await asyncio.wait_for(task, 20)


def keep(ledger, *numbers):
    for number in numbers:
        ledger.record(record(number))


def abandoned(journals, name, *numbers, extra=()):
    """A journal whose owner is gone."""
    writer = JournalWriter(journals, name, 4096)
    for payload in (*(encoded(record(number)) for number in numbers), *extra):
        writer.append(payload)
    writer.close()
    return writer.path


@contextmanager
def failing(monkeypatch, name, times=10**9):
    """A call of the disk that refuses as often as said."""
    real, left = getattr(os, name), [times]

    def refuse(*arguments):
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(f"proxy.ledger.journal.os.{name}", refuse)
        yield


def mark(name):
    return BegunMark(name, 1000.0, Api.CHAT, "m", "a", 100)
