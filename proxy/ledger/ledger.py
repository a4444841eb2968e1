"""The ledger of one worker: keeps a record at once, and carries it to the store in the background.

`begin` and `record` are called on the data path: one encode, one write. Everything slow (fsync, Redis, other workers' abandoned
journals, deleting old segments) happens in one task beside it, and none of it can hold a stream up.
"""

import asyncio
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
import structlog

from proxy.errors import JournalUnwritableError, MeterError, StoreUnavailableError
from proxy.ledger.holding import Holding
from proxy.ledger.journal import (
    JournalDamagedError,
    JournalReader,
    JournalWriter,
    journals_in,
    lock_abandoned,
    segments,
)
from proxy.ledger.keeping import DAMAGED, drop_old
from proxy.ledger.places import GivesPlaces, IsNamed, Places, nobody
from proxy.ledger.recovery import SUFFIX, Recover, recover
from proxy.ledger.revisions import Revisions
from proxy.ledger.shipper import BATCH_RECORDS, AppliesBatches, JournalShipper, StoreRefusesError
from proxy.ledger.tally import Retention
from proxy.pricing.budgets import Budget
from proxy.settings import JournalSettings
from proxy.usage import BegunMark, UsageRecord

COMPARE_EVERY_S: Final = 5.0
SHIP_EVERY_S: Final = 0.8
RETRY_AFTER_S: Final = 0.5
TELL_EVERY_S: Final = 1.0
TO_THE_END: Final = 2**62
MAX_UNWRITTEN: Final = 10_000
"""Records held in memory while the disk refuses them: some 10 MB. Beyond, the oldest are lost, counted and shouted about."""

MAX_PENDING_SINCE: Final = 4096

log = structlog.get_logger(__name__)


class KeepsCounters(AppliesBatches, GivesPlaces, Protocol):
    """What a ledger needs of a store."""


class _Adopted:
    """A journal whose owner is gone, and the lock that makes it ours. `drained` once it was read to its end."""

    def __init__(self, path: Path, lock: int, shipper: JournalShipper) -> None:
        self.path = path
        self.lock = lock
        self.shipper = shipper
        self.drained = False


class Ledger:
    """Keeps records. `faults` counts, per stage, what metering had to go on from."""

    def __init__(
        self,
        store: KeepsCounters,
        journals: Path,
        journal_id: str,
        settings: JournalSettings,
        retention: Retention,
        *,
        recover_record: Recover,
        budgets: Sequence[Budget] = (),
        is_named: IsNamed = nobody,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """Open a new journal.

        `recover_record` makes the record of an exchange that a dead worker had begun, `budgets` are those in which something
        may be held, `is_named` tells the names that have a place of their own in the counters always. Raises OSError if the
        journal cannot be opened.
        """
        self._store = store
        self._journals = journals
        self._settings = settings
        self._retention = retention
        self._recover_record = recover_record
        self._wall_s = wall_s
        self._writer = JournalWriter(journals, journal_id, settings.segment_bytes)
        self._revisions = Revisions(store)
        self._places = Places(store, is_named)
        self._shipper = self._shipper_for(self._writer.path)
        self._adopted: dict[str, _Adopted] = {}
        self._holding = Holding(store, journal_id, budgets, wall_s=wall_s, fault=self.fault)
        self.holds = self._holding.holds
        self._unwritten: deque[tuple[UsageRecord, bytes]] = deque()
        self._pending_since_s: deque[tuple[int, float]] = deque()
        self._encoder = msgspec.json.Encoder()
        self._resting: set[str] = set()  # until the next comparison
        self._ended: set[str] = set()  # adopted journals whose end is damaged: kept for whoever looks
        self._stopping = asyncio.Event()
        self._store_answers = True
        self._compared_s = float("-inf")
        self._shipped_s = float("-inf")
        self._reported: set[tuple[str, int]] = set()  # damaged segments, by journal and first number
        self.faults: dict[str, int] = {}
        self._told: dict[str, tuple[float, int]] = {}  # when a stage was last told of, and its count then

    def __repr__(self) -> str:
        return f"<Ledger {self._writer!r} {self._shipper!r}>"

    # Called on the data path.

    def begin(self, mark: BegunMark) -> None:
        """Mark an exchange as begun. Where the disk refuses the mark, that is counted, and the settings say what follows.

        Raises JournalUnwritableError where nothing may be relayed then.
        """
        try:
            self._writer.begin(mark.exchange_id, self._encoder.encode(mark))
        except OSError as error:
            self.fault("journal", error)
            if self._settings.on_unwritable == "refuse":
                raise JournalUnwritableError("The proxy cannot write its journal; nothing is relayed.") from error
        if self._settings.fsync == "always":
            self._sync_now()

    def record(self, record: UsageRecord) -> None:
        """Keep a record. Where the disk refuses it, it waits in memory and the fault is counted."""
        self._unwritten.append((record, self._encoder.encode(record)))
        self._write_held()

    def fault(self, stage: str, error: Exception) -> None:
        """Count a fault of metering, and log it once a second and stage; the exchange it happened in goes on."""
        self.faults[stage] = self.faults.get(stage, 0) + 1
        now_s, (told_s, told) = time.monotonic(), self._told.get(stage, (float("-inf"), 0))
        if now_s - told_s < TELL_EVERY_S:
            return  # an exchange a line would be all that anybody reads of an outage
        self._told[stage] = (now_s, self.faults[stage])
        said = {"reason": str(error)} if isinstance(error, MeterError) else {"exc_info": error}
        log.error("metering_fault", stage=stage, times=self.faults[stage] - told, error=type(error).__name__, **said)

    # What the worker reports of itself.

    @property
    def pending_records(self) -> int:
        """Records of the own journal that are not yet known to be in the counters."""
        return self._writer.number - max(self._shipper.applied, 0) + len(self._unwritten)

    def oldest_pending_s(self) -> float:
        """Age of the oldest record that is not yet in the counters; 0 for none."""
        if not self.pending_records:
            self._pending_since_s.clear()
            return 0.0
        # An entry stands for the records up to the next one, so the last that begins at or before the first pending one.
        while len(self._pending_since_s) > 1 and self._pending_since_s[1][0] <= self._shipper.applied + 1:
            self._pending_since_s.popleft()
        return self._wall_s() - self._pending_since_s[0][1] if self._pending_since_s else 0.0

    @property
    def writable(self) -> bool:
        """False while the disk refuses records."""
        return not self._unwritten

    # The task beside the data path.

    async def run(self) -> None:
        """Sync and ship until `stop`, then once more, as far as the store answers."""
        while not self._stopping.is_set():
            await self._guarded_round()
            pause = self._settings.fsync_interval_seconds if self._store_answers else RETRY_AFTER_S
            await self._pause(pause)
        await self._guarded_round()
        self._shipper.close()
        self._writer.close()
        for adopted in self._adopted.values():
            adopted.shipper.close()
            os.close(adopted.lock)

    def stop(self) -> None:
        """Let `run` come to its end."""
        self._stopping.set()

    async def _guarded_round(self) -> None:
        try:
            await self._round()
        except Exception as error:  # noqa: BLE001 - whatever one round meets, the records wait for the next
            self.fault("ship", error)

    async def _round(self) -> None:
        """One round: to the disk, to the store, and the housekeeping that is due. Each part fails by itself."""
        if self._unwritten:
            self._write_held()
        await self._sync()
        if not self._shipping_is_due():
            return
        try:
            compared = await self._compare_if_due()
            await self._ship(self._shipper, self._shippable())
            self.holds.applied(self._shipper.applied)
            for adopted in self._adopted.values():
                adopted.drained = await self._ship(adopted.shipper, TO_THE_END)
            if compared:
                await self._give_back()
            for adopted in list(self._adopted.values()):
                await self._drop_if_drained(adopted)
            self._note_store(answers=True)
        except StoreUnavailableError as error:
            self._note_store(answers=False, error=error)

    def _shipping_is_due(self) -> bool:
        """A batch costs the same for one record and for a hundred: full ones go at once, others wait a little."""
        now = time.monotonic()
        waiting = self._shippable() - self._shipper.applied
        if now - self._shipped_s < SHIP_EVERY_S and waiting < BATCH_RECORDS and not self._stopping.is_set():
            return False
        self._shipped_s = now
        return True

    async def _ship(self, shipper: JournalShipper, last: int) -> bool:
        """Ship one journal as far as it goes; one that is damaged, or that the store refuses, rests for a while."""
        if shipper.journal_id in self._resting or shipper.journal_id in self._ended:
            return False
        try:
            await shipper.ship(last)
        except JournalDamagedError as error:
            self._take_damage(shipper, error)
            return False
        except StoreRefusesError as error:
            self._resting.add(shipper.journal_id)
            self.fault("ship", error)
            return False
        return True

    def _take_damage(self, shipper: JournalShipper, error: JournalDamagedError) -> None:
        """Report it once. The own journal goes on in a new segment; an adopted one has come to its end."""
        place = (shipper.journal_id, error.segment)
        if place not in self._reported:
            self._reported.add(place)
            self.fault("ship", error)
        if shipper is self._shipper:
            self._writer.roll()
            self._resting.add(shipper.journal_id)
        else:
            self._ended.add(shipper.journal_id)

    async def _sync(self) -> None:
        if self._settings.fsync == "never" or self._writer.synced:
            return
        await asyncio.to_thread(self._sync_now)

    def _shippable(self) -> int:
        return self._writer.number if self._settings.fsync == "never" else self._writer.synced_number

    async def _compare_if_due(self) -> bool:
        """Every few seconds: does the store still know what it knew; are there journals without an owner; what is old."""
        now = time.monotonic()
        if now - self._compared_s < COMPARE_EVERY_S and self._store_answers:
            return False
        self._resting.clear()
        await self._shipper.compare()
        self.holds.applied(self._shipper.applied)  # also of a batch whose answer was lost: nothing of it is held again
        for adopted in self._adopted.values():
            await adopted.shipper.compare()
        await self._holding.say_what_is_open()
        await self._adopt()
        await asyncio.to_thread(self._drop_old_segments, self._writer.path, self._shipper, keep_newest=True)
        self._compared_s = now
        return True

    async def _give_back(self) -> None:
        """What is held for nobody, here and for journals that are read to their end."""
        if self._shipper.applied >= self._shipper.highest:
            await self._holding.give_back(self._shipper.applied)
        for owner in {name.removesuffix(SUFFIX) for name in self._adopted}:
            await self._give_back_all_of(owner)

    async def _give_back_all_of(self, owner: str) -> None:
        """Nothing is open in a journal that is read to its end, once what was recovered from it is, too."""
        adopted = (self._adopted[name] for name in (owner, owner + SUFFIX) if name in self._adopted)
        if all(one.drained for one in adopted):
            await self._holding.give_back_all_of(owner)

    async def _adopt(self) -> None:
        """Take over the journals whose owners are gone; what was recovered from one goes to whoever has that one.

        Only then somebody knows when both are read to their end, and nothing is open in them.
        """
        for path in journals_in(self._journals):
            if path.name == self._writer.journal_id or path.name in self._adopted:
                continue
            owner = path.name.removesuffix(SUFFIX)
            if owner != path.name and owner not in self._adopted and path.with_name(owner).exists():
                continue
            lock = lock_abandoned(path)
            if lock is not None:
                await self._take_over(path, lock)

    async def _take_over(self, path: Path, lock: int) -> None:
        """What was open in a journal becomes records first; those are a journal of their own, adopted as well."""
        try:
            recovered = await asyncio.to_thread(recover, path, self._recover_record, self._settings.segment_bytes)
        except Exception as error:  # noqa: BLE001 - whatever it is, the lock must not stay with one who does not use it
            os.close(lock)
            self.fault("recover", error)
            return
        self._adopted[path.name] = _Adopted(path, lock, self._shipper_for(path))
        log.info("journal_adopted", journal=path.name, interrupted=recovered)
        if recovered:
            await self._adopt()

    async def _drop_if_drained(self, adopted: _Adopted) -> None:
        if adopted.drained:
            await asyncio.to_thread(self._drop_old_segments, adopted.path, adopted.shipper, keep_newest=False)
            if next(segments(adopted.path), None) is None:
                await self._give_back_all_of(adopted.path.name.removesuffix(SUFFIX))
                self._forget(adopted)

    def _forget(self, adopted: _Adopted) -> None:
        """Remove what is left of a drained journal, unless damaged segments are among it: those are for people to look at."""
        adopted.shipper.close()
        if next(adopted.path.glob(f"*{DAMAGED}"), None) is None:
            shutil.rmtree(adopted.path, ignore_errors=True)
        else:
            adopted.path.rename(adopted.path.with_name(f".{adopted.path.name}{DAMAGED}"))
        os.close(adopted.lock)
        del self._adopted[adopted.path.name]

    def _drop_old_segments(self, path: Path, shipper: JournalShipper, *, keep_newest: bool) -> None:
        drop_old(path, shipper.applied, shipper.damaged, self._settings, keep_newest=keep_newest, now_s=self._wall_s())

    def _write_held(self) -> None:
        """Write what is not in the journal yet: usually the one record that just came."""
        try:
            while self._unwritten:
                record, payload = self._unwritten[0]
                number = self._writer.append(payload, record.exchange_id)
                self._unwritten.popleft()
                self._shipper.remember(number, payload, record)
                if record.is_reserved:
                    self.holds.recorded(record.exchange_id, number)
                self._note_pending(number, record.end_s)
        except OSError as error:
            self._keep_within_memory(error)
        if self._settings.fsync == "always":
            self._sync_now()

    def _sync_now(self) -> None:
        try:
            self._writer.sync()
        except OSError as error:
            self.fault("fsync", error)

    def _note_pending(self, number: int, at_s: float) -> None:
        """Remember when this number was written: once a second is enough, and fewer while Redis is away for days."""
        noted = self._pending_since_s
        if noted and 0 <= at_s - noted[-1][1] < 1.0:
            return
        noted.append((number, at_s))
        if len(noted) > MAX_PENDING_SINCE:
            self._pending_since_s = deque(list(noted)[::2])

    def _keep_within_memory(self, error: OSError) -> None:
        self.fault("journal", error)
        if len(self._unwritten) > MAX_UNWRITTEN:
            self._unwritten.popleft()
            self.fault("record_lost", error)

    def _shipper_for(self, path: Path) -> JournalShipper:
        return JournalShipper(
            JournalReader(path),
            self._store,
            self._retention,
            self._wall_s,
            revisions=self._revisions,
            places=self._places,
        )

    def _note_store(self, *, answers: bool, error: Exception | None = None) -> None:
        if answers != self._store_answers:
            log.warning("store_back" if answers else "store_gone", error=str(error or ""), pending=self.pending_records)
        self._store_answers = answers

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
