"""A gateway worker with one thing altered, for `benchmarks.durability` and `benchmarks.metering`. Takes its orders as the real one does.

without-meter         chunks are passed on and nobody looks at them; records are made, with a rough estimate
timed-meter FILE      every look at a chunk is timed where it happens; the median is written to FILE
without-journal       records are made and dropped: no mark, no line, no fsync, nothing to ship
slow-fsync FILE       every fsync takes 200 ms longer; the longest stall of the event loop is written to FILE
"""

import asyncio
import os
import sys
import time
from array import array
from pathlib import Path
from typing import Any, Final

from proxy import gateway_process
from proxy.gateway import exchange
from proxy.gateway.recording import Need
from proxy.ledger import shipper
from proxy.ledger.journal import JournalWriter
from proxy.ledger.ledger import Ledger

FSYNC_S: Final = 0.2
TICK_S: Final = 0.001
LOOKS: Final = 10_000


def without_meter() -> None:
    """The same relay, journal and all, without a look at any chunk."""
    exchange.METERED_APIS = frozenset()  # type: ignore[misc]
    exchange.need_of = lambda *_: Need.NOTHING


def timed_meter(file: Path) -> None:
    """What a look costs between two system calls, its caches cold: nanoseconds, written after every 10,000 looks.

    The median, because in some looks the kernel handles packets or another process runs.
    """
    real, took = exchange.Meter.feed, array("q")

    def feed(meter: exchange.Meter, chunk: bytes) -> None:
        before = time.perf_counter_ns()
        begun = time.perf_counter_ns()
        real(meter, chunk)
        took.append(time.perf_counter_ns() - begun - (begun - before))  # without what asking for the time takes
        if len(took) % LOOKS == 0:
            _note(file, sorted(took)[len(took) // 2])

    exchange.Meter.feed = feed  # type: ignore[method-assign]


def without_journal() -> None:
    """The same build with the journal off: everything but the disk is as it was."""

    def append(writer: JournalWriter, _payload: bytes, _exchange_id: str = "") -> int:
        writer.number += 1
        return writer.number

    def sync(writer: JournalWriter) -> None:
        writer.synced_number = writer.number

    shipper.FRESH_RECORDS = 10**6  # type: ignore[misc]
    JournalWriter.begin = lambda *_: None  # type: ignore[method-assign]
    JournalWriter.append = append  # type: ignore[method-assign]
    JournalWriter.sync = sync  # type: ignore[method-assign]
    JournalWriter.synced = property(lambda writer: writer.synced_number == writer.number)  # type: ignore[assignment]


def slow_fsync(file: Path) -> None:
    """A disk that takes its time, and a look at the loop every millisecond."""
    real, run = os.fsync, Ledger.run

    def fsync(fd: int) -> None:
        time.sleep(FSYNC_S)
        real(fd)

    async def run_and_look(ledger: Ledger) -> Any:
        looking = asyncio.create_task(_look(file))
        try:
            return await run(ledger)
        finally:
            looking.cancel()

    os.fsync = fsync
    Ledger.run = run_and_look  # type: ignore[method-assign]


async def _look(file: Path) -> None:
    """How late the loop came to a timer, at worst; begins after a second, when everything is loaded."""
    await asyncio.sleep(1.0)
    worst_s, number = 0.0, 0
    while True:
        due_s = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        late_s = time.monotonic() - due_s
        number += 1
        if late_s > worst_s or number % 1000 == 0:
            worst_s = max(worst_s, late_s)
            _note(file, worst_s)


def _note(file: Path, figure: float) -> None:
    file.write_text(f"{figure}")


if __name__ == "__main__":
    if sys.argv[1] == "without-meter":
        without_meter()
    elif sys.argv[1] == "timed-meter":
        timed_meter(Path(sys.argv[2]))
    elif sys.argv[1] == "without-journal":
        without_journal()
    else:
        slow_fsync(Path(sys.argv[2]))
    gateway_process.main()
