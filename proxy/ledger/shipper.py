"""Ships journals to the store: own and adopted ones, each number once, whatever is retried or taken over.

Rule 1: only what is forced to the disk is shipped (with fsync `never`: what is written).
Rule 2: the store says where it stands. Its number decides what is sent next, so a torn answer or a rollback of Redis is
        the same case as a first start: read from there.
Rule 3: a record that cannot be applied is found by halving its batch, set aside and counted; the others go through.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from proxy.ledger.journal import Entry, JournalReader
from proxy.ledger.store import Applied, Behind, RefusedBatch
from proxy.ledger.tally import Batch, Retention, fold, quarantine, unreplayable
from proxy.usage import UsageRecord

BATCH_RECORDS: Final = 128
"""Records folded in one go: about 3 ms of work, so that catching up never holds the streams of this worker longer."""

log = structlog.get_logger(__name__)

_decoder: Final = msgspec.json.Decoder(UsageRecord)


class AppliesBatches(Protocol):
    """What a shipper needs of a store."""

    async def apply(self, batch: Batch) -> Applied | Behind | RefusedBatch:
        """Apply a batch once, or say why not."""

    async def stored_number(self, journal_id: str) -> int:
        """The last number of a journal in the counters."""


class JournalShipper:
    """Carries one journal into the store. `applied` is the last number known to be in the counters (-1: not asked yet)."""

    def __init__(self, reader: JournalReader, store: AppliesBatches, retention: Retention) -> None:
        self._reader = reader
        self._store = store
        self._retention = retention
        self.journal_id = reader.journal_id
        self.applied = -1

    def __repr__(self) -> str:
        return f"<JournalShipper {self.journal_id} applied={self.applied}>"

    async def compare(self) -> None:
        """Ask the store where it stands. One that went back is replayed from there by the next `ship`."""
        stored = await self._store.stored_number(self.journal_id)
        if stored < self.applied:
            log.warning("store_went_back", journal=self.journal_id, applied=self.applied, stored=stored)
        self.applied = stored

    async def ship(self, last: int, keep_going: Callable[[], bool] = lambda: True) -> None:
        """Apply everything up to number `last`. Raises StoreUnavailableError, JournalDamagedError."""
        if self.applied < 0:
            await self.compare()
        while self.applied < last and keep_going():
            entries = self._reader.read(self.applied + 1, last, BATCH_RECORDS)
            if not entries:
                return
            if entries[0].number > self.applied + 1:
                await self._enter_lost(self.applied + 1, entries[0].number - 1)
            else:
                await self._apply(entries)

    def close(self) -> None:
        """Give up the open file."""
        self._reader.close()

    async def _apply(self, entries: Sequence[Entry]) -> None:
        result = await self._store.apply(self._batch(entries))
        if isinstance(result, RefusedBatch):
            await self._halve(entries, result.reason)
        else:
            self._take(result)

    async def _halve(self, entries: Sequence[Entry], reason: str) -> None:
        if len(entries) > 1:
            await self._apply(entries[: len(entries) // 2])
            return  # the other half follows on the new number
        log.error("record_quarantined", journal=self.journal_id, number=entries[0].number, reason=reason)
        result = await self._store.apply(quarantine(self.journal_id, entries[0].number, entries[0].payload))
        self._take(result)

    async def _enter_lost(self, first: int, last: int) -> None:
        log.error("records_unreplayable", journal=self.journal_id, first=first, last=last)
        self._take(await self._store.apply(unreplayable(self.journal_id, first, last)))

    def _take(self, result: Applied | Behind | RefusedBatch) -> None:
        match result:
            case Applied(last):
                self.applied = last
            case Behind(stored):
                self.applied = stored
            case RefusedBatch(reason):
                # Even a lone counter was refused: the totals themselves cannot be added to. Stop, loudly, and try later.
                raise StoreRefusesError(f"journal {self.journal_id}: the store refuses every batch: {reason}")

    def _batch(self, entries: Sequence[Entry]) -> Batch:
        """The batch of these entries; one whose payload is no record is quarantined by itself."""
        records: list[UsageRecord] = []
        for entry in entries:
            try:
                records.append(_decoder.decode(entry.payload))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                break
        if not records:
            return quarantine(self.journal_id, entries[0].number, entries[0].payload)
        return fold(self.journal_id, entries[0].number, records, self._retention)


class StoreRefusesError(Exception):
    """The store takes no batch at all, because what it holds is not ours or has run out of range."""
