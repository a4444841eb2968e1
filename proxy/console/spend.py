"""Exact spend of today and of this month, per version, in a time zone. Pure.

The ledger keeps spend per quarter of an hour, the finest offset any time zone has; here the quarters since the start of
the day and of the month are added up. Sums of integers, so the gauges agree with every report to the last digit.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from proxy.ledger.families import NANO
from proxy.ledger.tally import spend_hash


class Window(NamedTuple):
    """A window of `spend_usd`: its label and where it begins."""

    name: str
    start_s: float


def windows(now_s: float, zone: ZoneInfo) -> tuple[Window, Window]:
    """Today and this month in a time zone."""
    now = datetime.fromtimestamp(now_s, zone)
    day = now.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return Window("today", day.timestamp()), Window("month", day.replace(day=1).timestamp())


def hashes_needed(now_s: float, zone: ZoneInfo) -> tuple[str, ...]:
    """The store's hashes (one per UTC month) that the windows at `now_s` reach into."""
    start = datetime.fromtimestamp(windows(now_s, zone)[1].start_s, UTC)
    end = datetime.fromtimestamp(now_s, UTC) + timedelta(days=1)  # a clock that is ahead is looked up, too
    return tuple(dict.fromkeys((spend_hash(start.timestamp()), spend_hash(now_s), spend_hash(end.timestamp()))))


def spend_usd(hashes: Iterable[Mapping[bytes, bytes]], now_s: float, zone: ZoneInfo) -> dict[tuple[str, str], float]:
    """Dollars by version and window; every version of the month has both windows, today's may be 0."""
    today, month = windows(now_s, zone)
    nanos: dict[tuple[str, str], int] = defaultdict(int)
    for fields in hashes:
        for field, value in fields.items():
            version, currency, quarter_s = msgspec.json.decode(field, type=tuple[str, str, int])
            if currency != "USD" or quarter_s < month.start_s:
                continue
            nanos[version, month.name] += int(value)
            nanos[version, today.name] += int(value) if quarter_s >= today.start_s else 0
    return {key: value / NANO for key, value in nanos.items()}
