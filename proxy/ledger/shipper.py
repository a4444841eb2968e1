"""Ships journals to the store: own and adopted ones, each number once, whatever is retried or taken over.

Rule 1: only what is forced to the disk is shipped (with fsync `never`: what is written).
Rule 2: the store says where it stands. Its number decides what is sent next, so a torn answer or a rollback of Redis is
        the same case as a first start: read from there.
Rule 3: a record that cannot be applied is found by halving its batch, set aside and counted; the others go through.
Rule 4: numbers that cannot be read any more (segments that are gone, or damaged) are entered as lost before anything
        behind them is shipped.
docs/ledger.md has the protocol as a whole; tests/ledger/test_protocol.py checks it against a real Redis.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, takewhile
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from proxy.ledger.answers import Applied, Behind, Position, PutRight, RefusedBatch, Result, Unsettled
from proxy.ledger.budgets import StillOpen
from proxy.ledger.journal import JournalDamagedError, JournalReader, segments
from proxy.ledger.places import Places
from proxy.ledger.revisions import Notes, Revisions, SettlesRevisions
from proxy.ledger.tally import Batch, Retention, fold, quarantine, unreplayable
from proxy.ledger.watermark import Applied as AppliedMark
from proxy.ledger.watermark import Watermark
from proxy.usage import UsageRecord

BATCH_RECORDS: Final = 128
"""Records folded in one go: about 3 ms of work, so that catching up never holds the streams of this worker longer.
Behind a full batch the shipper rests for as long as it took: catching up has at most half of the worker's time."""

LONGEST_REST_S: Final = 0.01

FRESH_RECORDS: Final = 4096
"""Lines just written that are kept in memory until they are shipped, some 6 MB at most. What falls out is read again."""

log = structlog.get_logger(__name__)

_decoder: Final = msgspec.json.Decoder(UsageRecord)


class AppliesBatches(SettlesRevisions, Protocol):
    """What a shipper needs of a store."""

    async def apply(self, batch: Batch, epoch: int = 0, *, replayed: bool = False) -> Result:
        """Apply a batch once, or say why not."""

    async def compare(self, journal_id: str, epoch: int, highest: int) -> Position:
        """Where the store stands with a journal."""

    async def hold(
        self, journal_id: str, still_open: StillOpen, prune: Mapping[str, int], over: Sequence[str] = ()
    ) -> PutRight:
        """Hold what is open in a journal, and give back what is held for exchanges that are over."""


class _Fresh(NamedTuple):
    """A line with what stands in it; None where that is no record."""

    number: int
    payload: bytes
    record: UsageRecord | None


class JournalShipper:
    """Carries one journal into the store. `applied` is the last number known to be in the counters (-1: not asked yet).

    `highest` is the last number that ever was: above `applied` while the store has forgotten something.
    """

    def __init__(
        self,
        reader: JournalReader,
        store: AppliesBatches,
        retention: Retention,
        wall_s: Callable[[], float] = time.time,
        *,
        revisions: Revisions | None = None,
        places: Places | None = None,
        journal_id: str = "",
    ) -> None:
        """`revisions` and `places` are those of the process, where it ships several journals; without places every name has one.

        `journal_id`: the name in the store, where that is not the journal's own (then its watermark is not touched).
        """
        self._reader = reader
        self._store = store
        self._retention = retention
        self._revisions = revisions or Revisions(store)
        self._places = places
        self._notes = Notes(reader.path)
        self._revisions.offer(self._notes)
        self._wall_s = wall_s
        self._watermark = None if journal_id else Watermark(reader.path)
        self._mark = self._watermark.read() if self._watermark else AppliedMark()
        self._noted = self._mark
        self.journal_id = journal_id or reader.journal_id
        self._fresh: deque[_Fresh] = deque(maxlen=FRESH_RECORDS)
        self.applied = -1
        self.damaged: set[int] = set()

    def __repr__(self) -> str:
        return f"<JournalShipper {self.journal_id} applied={self.applied} highest={self.highest}>"

    @property
    def highest(self) -> int:
        """The last number that was ever in the counters."""
        return self._mark.number

    def remember(self, number: int, payload: bytes, record: UsageRecord) -> None:
        """A line that was just written, so that it need not be read again. The file is what counts: a few are kept."""
        self._fresh.append(_Fresh(number, payload, record))

    async def compare(self) -> None:
        """Ask the store where it stands. One that went back is replayed from there by the next `ship`."""
        found = await self._store.compare(self.journal_id, self._mark.known_epoch, self.highest)
        if found.wiped:
            log.error("store_wiped", journal=self.journal_id, applied=self.highest, hint="deepseek-meter verify")
        elif found.went_back:
            log.warning("store_went_back", journal=self.journal_id, applied=self.highest, stored=found.number)
        self.applied = found.number
        self._note(found.epoch)

    async def ship(self, last: int, keep_going: Callable[[], bool] = lambda: True) -> None:
        """Apply everything up to number `last`. Raises StoreUnavailableError, JournalDamagedError, StoreRefusesError."""
        if self.applied < 0:
            await self.compare()
        try:
            while self.applied < last and keep_going():
                if not await self._ship_some(last):
                    return
        finally:
            self._write_mark()

    def close(self) -> None:
        """Give up the open file."""
        self._reader.close()

    async def _ship_some(self, last: int) -> bool:
        """The next batch. False where the journal ends for now."""
        first = self.applied + 1
        replaying = first <= self.highest
        last = min(last, self.highest) if replaying else last
        try:
            entries = self._fresh_from(first, last) or self._read(first, last)
        except JournalDamagedError as error:
            await self._step_over(first, error)
            return True
        if not entries:
            return False
        if entries[0].number > first:
            await self._enter_lost(first, entries[0].number - 1)
            return True
        begun_s = time.monotonic()
        await self._apply(entries, replayed=replaying)
        if len(entries) == BATCH_RECORDS:
            await asyncio.sleep(min(time.monotonic() - begun_s, LONGEST_REST_S))
        return True

    def _fresh_from(self, first: int, last: int) -> list[_Fresh]:
        """The next lines out of memory; none where the first of them is not there (any more)."""
        fresh = self._fresh
        while fresh and fresh[0].number < first:
            fresh.popleft()
        if not fresh or fresh[0].number != first:
            return []
        return list(islice(fresh, min(BATCH_RECORDS, last - first + 1)))

    def _read(self, first: int, last: int) -> list[_Fresh]:
        """The next lines off the disk; a payload that is no record comes without one."""
        return [_Fresh(*entry, _decoded(entry.payload)) for entry in self._reader.read(first, last, BATCH_RECORDS)]

    async def _step_over(self, first: int, error: JournalDamagedError) -> None:
        """Enter the rest of a damaged segment as lost, and go on with the next one. Raises the error if there is none."""
        self.damaged.add(error.segment)
        following = next((number for number, _ in segments(self._reader.path) if number > error.segment), None)
        if following is None:
            raise error
        log.error("journal_damaged", journal=self.journal_id, error=str(error))
        await self._enter_lost(first, following - 1)

    async def _apply(self, entries: Sequence[_Fresh], *, replayed: bool) -> None:
        batch = await self._batch(entries)
        result = await self._store.apply(batch, self._mark.epoch, replayed=replayed)
        if isinstance(result, RefusedBatch):
            await self._halve(entries, result.reason, replayed=replayed)
        else:
            await self._take(result)

    async def _halve(self, entries: Sequence[_Fresh], reason: str, *, replayed: bool) -> None:
        if len(entries) > 1:
            await self._apply(entries[: len(entries) // 2], replayed=replayed)
            return  # the other half follows on the new number
        log.error("record_quarantined", journal=self.journal_id, number=entries[0].number, reason=reason)
        aside = quarantine(self.journal_id, entries[0].number, entries[0].payload)
        await self._take(await self._store.apply(aside, self._mark.epoch, replayed=replayed))

    async def _enter_lost(self, first: int, last: int) -> None:
        log.error("records_unreplayable", journal=self.journal_id, first=first, last=last)
        await self._take(await self._store.apply(unreplayable(self.journal_id, first, last), self._mark.epoch))

    async def _take(self, result: Result) -> None:
        match result:
            case Applied(last):
                self.applied = last
                self._note(self._mark.epoch)
            case Behind():
                await self.compare()  # another number than expected, or another history: the store says what holds
            case Unsettled(pair):
                log.info("revision_asked_again", journal=self.journal_id, pair=pair)
                self._revisions.forget()
            case RefusedBatch(reason):
                # Even a lone counter was refused: the totals themselves cannot be added to. Stop, loudly, and try later.
                raise StoreRefusesError(f"journal {self.journal_id}: the store refuses every batch: {reason}")

    def _note(self, epoch: int) -> None:
        """Remember what is applied, in which history."""
        self._mark = AppliedMark(epoch, max(self.applied, self.highest), int(self._wall_s()))

    def _write_mark(self) -> None:
        if not self._watermark or self._mark[:2] == self._noted[:2]:
            return
        try:
            self._watermark.write(self._mark)
        except OSError as error:
            log.warning("watermark_not_written", journal=self.journal_id, error=str(error))
        self._noted = self._mark

    async def _batch(self, entries: Sequence[_Fresh]) -> Batch:
        """The batch of these entries; one whose payload is no record is quarantined by itself."""
        good = list(takewhile(lambda entry: entry.record is not None, entries))
        if not good:
            return quarantine(self.journal_id, entries[0].number, entries[0].payload)
        records = [entry.record for entry in good if entry.record is not None]
        texts = [entry.payload.decode() for entry in good]
        found = await self._revisions.settle(records, texts, self._notes)
        counted = found.records if self._places is None else await self._places.fold(found.records)
        return fold(
            self.journal_id, entries[0].number, counted, self._retention, found.texts, relied_on=found.relied_on
        )


def _decoded(payload: bytes) -> UsageRecord | None:
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class StoreRefusesError(Exception):
    """The store takes no batch at all, because what it holds is not ours or has run out of range."""
