"""`report`: reads the rollups that an interval is made of, says whether all is in them, and shows what it cost."""

import asyncio
import time
from collections.abc import Mapping
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from proxy.child import journals_dir
from proxy.errors import MeterError
from proxy.gateway_process import open_store, retention_of
from proxy.installation import store_url
from proxy.ledger.store import Store
from proxy.ledger.verify import not_counted, written_numbers
from proxy.pricing.fixed import fixed_costs
from proxy.reports.cover import Bucket, Cover, Rollup, cover, disagreeing, kept_at, without
from proxy.reports.interval import Period, periods
from proxy.reports.report import Report, report
from proxy.settings import Settings

LOOK_EVERY_S: Final = 0.1


class Asked(NamedTuple):
    """What a report is asked for. `wait_s` is what records on their way are given to arrive."""

    interval: Period
    by: tuple[str, ...]
    currencies: tuple[str, ...]
    zone: ZoneInfo
    now_s: float
    wait_s: float


def make(settings: Settings, asked: Asked) -> Report:
    """The report, with what is missing in it. Raises MeterError, also where no store of this installation is to be found."""
    if not settings.store.redis_url and not journals_dir(settings).is_dir():
        raise MeterError(f"[store] data_dir {settings.store.data_dir}: there are no journals; is it the right one?")
    with store_url(settings) as url:
        return asyncio.run(_make(settings, url, asked))


async def _make(settings: Settings, url: str, asked: Asked) -> Report:
    store = open_store(settings, url)
    try:
        pending = await _pending(store, settings, asked.wait_s)
        found, rollups = await _read(store, settings, asked)
    finally:
        await store.close()
    made = report(
        found,
        rollups,
        by=asked.by,
        currencies=asked.currencies,
        costs=fixed_costs(settings),
        now_s=asked.now_s,
        zone=asked.zone,
    )
    return made._replace(pending=pending)


async def _pending(store: Store, settings: Settings, wait_s: float) -> int:
    """How many of the records that are written by now are not in the counters after a while.

    0 where the journals are another host's: nobody can look at them from here.
    """
    journals = journals_dir(settings)
    if not journals.is_dir():
        return 0
    written, deadline = written_numbers(journals), time.monotonic() + wait_s
    missing = await not_counted(store, journals, written)
    while missing and time.monotonic() < deadline:
        await asyncio.sleep(LOOK_EVERY_S)
        missing = await not_counted(store, journals, written)
    return sum(missing.values())


async def _read(store: Store, settings: Settings, asked: Asked) -> tuple[Cover, Mapping[Bucket, Rollup]]:
    """The rollups of the interval. Where finer ones turn out not to be there, what is left is covered anew."""
    now_s = time.time()
    kept = kept_at(now_s - await store.clock_offset_s(now_s), retention_of(settings))
    wanted = periods(asked.interval, asked.by, asked.zone)
    while True:
        found = cover(wanted, kept)
        rollups = await _rollups(store, found)
        gaps = list(disagreeing(found, rollups))
        if not gaps:
            return found, rollups
        for gap in gaps:
            kept = without(kept, gap)


async def _rollups(store: Store, found: Cover) -> Mapping[Bucket, Rollup]:
    """A day a call: what has to agree is read at one instant, and Redis is not held up for longer."""
    read: dict[Bucket, Rollup] = {}
    for buckets in found.by_day():
        found_here = await store.hashes([bucket.name for bucket in buckets])
        for bucket, fields in zip(buckets, found_here, strict=True):
            read[bucket] = {field: int(value) for field, value in fields.items()}
    return read


def doubts(made: Report, *, said: bool) -> list[str]:
    """What belongs beside the report: that it is not complete, and its notes where it cannot say them itself."""
    pending = (
        f"the report is not complete: {made.pending:,} records are in the journals and not in the counters yet; "
        "`deepseek-meter verify` says which, `deepseek-meter serve` brings them there"
    )
    return [*([] if said else made.notes), *([pending] if made.pending else [])]
