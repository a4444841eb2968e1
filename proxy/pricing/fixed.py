"""Fixed costs: what a version costs by the clock, whether anybody asks it or not. Pure.

GPU-hours, storage, upkeep and the labour of validating belong to the question what a version costs; no provider's usage tells
them. An operator states them per hour or per month. A month has as many hours as it has (in a time zone): spread over them, a
monthly cost adds up to what was stated, in February as in July.
"""

from collections.abc import Iterator
from datetime import datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

import msgspec

from proxy.pricing.rows import NANOS
from proxy.settings import DEFAULT_UPSTREAM, FixedSettings, Settings

HOUR_S = 3600


class FixedCost(msgspec.Struct, frozen=True):
    """One item of one version on one host, in nano-dollars per hour or per month; the other is 0."""

    upstream: str
    version: str
    item: str
    nanos_per_hour: int = 0
    nanos_per_month: int = 0

    def nanos_between(self, from_s: float, to_s: float, zone: ZoneInfo) -> int:
        """What it comes to between two instants, rounded once."""
        whole = Fraction(self.nanos_per_hour) * (Fraction(to_s) - Fraction(from_s)) / HOUR_S
        if self.nanos_per_month:
            whole += sum(
                Fraction(self.nanos_per_month) * (Fraction(end) - Fraction(start)) / length
                for start, end, length in _months(from_s, to_s, zone)
            )
        return round(whole)

    def nanos_in_hour(self, now_s: float, zone: ZoneInfo) -> int:
        """Nano-dollars per hour at an instant."""
        if not self.nanos_per_month:
            return self.nanos_per_hour
        start_s, end_s = month_around(now_s, zone)
        return round(Fraction(self.nanos_per_month) * HOUR_S / (end_s - start_s))


def fixed_costs(settings: Settings) -> tuple[FixedCost, ...]:
    """All fixed costs of the settings, in their order."""
    return tuple(
        cost
        for version, one in settings.versions.items()
        if one.fixed is not None
        for cost in _costs(version, one.fixed, one.fixed.upstream or _upstream_of(version, settings))
    )


def month_around(now_s: float, zone: ZoneInfo) -> tuple[int, int]:
    """The first second of the month of an instant, and that of the next one."""
    first = datetime.fromtimestamp(now_s, zone).replace(day=1, hour=0, minute=0, second=0, microsecond=0, fold=0)
    year, month = (first.year + 1, 1) if first.month == 12 else (first.year, first.month + 1)
    return int(first.timestamp()), int(first.replace(year=year, month=month).timestamp())


def _months(from_s: float, to_s: float, zone: ZoneInfo) -> Iterator[tuple[float, float, int]]:
    """The parts of a stretch that lie in one month each, with the length of that month in seconds."""
    while from_s < to_s:
        start_s, end_s = month_around(from_s, zone)
        yield from_s, min(float(end_s), to_s), end_s - start_s
        from_s = end_s


def _costs(version: str, fixed: FixedSettings, upstream: str) -> Iterator[FixedCost]:
    for item in fixed.ITEMS:
        stated = getattr(fixed, item)
        if stated is not None:
            hourly, monthly = (_nanos(each, stated.count) for each in (stated.usd_per_hour, stated.usd_per_month))
            yield FixedCost(upstream, version, item, hourly, monthly)


def _nanos(dollars: float | None, count: float) -> int:
    return 0 if dollars is None else round(Fraction(str(dollars)) * Fraction(str(count)) * NANOS)


def _upstream_of(version: str, settings: Settings) -> str:
    """The upstream that a configured route of this version goes to, else the default."""
    for one in settings.upstreams:
        if version in (one.version, *one.versions.values()):
            return one.name
    return DEFAULT_UPSTREAM
