"""Which rollups make up an interval, so that no record is counted twice and none is missed. Pure.

Minutes lie in hours, hours in days, all in UTC, and the finer ones expire. What lies from an instant to the end of its day is the
minutes to the end of the hour and the hours to the end of the day; so

    [since, until)  =  rest of the day of `since`  +  whole days  -  rest of the day of `until`

in which what stands on both sides falls out. Only what lies *behind* an edge is needed for it: the younger part, which
expires last. An edge whose part is gone is moved to the nearest that can be told, and that is said.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from proxy.errors import MeterError
from proxy.ledger.tally import DAY_S, HOUR_S, MINUTE_S, Retention, rollup_hash
from proxy.reports.interval import Period

WIDTHS: Final = {"minute": MINUTE_S, "hour": HOUR_S, "day": DAY_S}

READING_S: Final = 30
"""What expires within so long counts as gone: it may be gone when it is read."""

Rollup = Mapping[bytes, int]
"""The fields of one, as the store has them."""


class Kept(NamedTuple):
    """The starts of the oldest minute and of the oldest hour that are still there."""

    minutes_from_s: int
    hours_from_s: int

    def reaches(self, edge_s: float) -> bool:
        """Whether what lies behind an edge, in its day, can be told."""
        hour_s = _up(edge_s, HOUR_S)
        minutes = edge_s % HOUR_S == 0 or (edge_s % MINUTE_S == 0 and edge_s >= self.minutes_from_s)
        return minutes and (hour_s % DAY_S == 0 or hour_s >= self.hours_from_s)


class Bucket(NamedTuple):
    """One rollup."""

    granularity: str
    start_s: int

    @property
    def name(self) -> str:
        """Its hash in the store."""
        return rollup_hash(*self)

    @property
    def parts(self) -> "tuple[Bucket, ...]":
        """The next finer rollups of which it is the sum."""
        if self.granularity == "minute":
            return ()
        finer = "hour" if self.granularity == "day" else "minute"
        end_s = self.start_s + WIDTHS[self.granularity]
        return tuple(Bucket(finer, start) for start in range(self.start_s, end_s, WIDTHS[finer]))


class Cover(NamedTuple):
    """Periods as they can be told, each with its rollups and how often each counts (1 or -1).

    `wholes` are rollups that are cut and whose parts are all there: their sums have to agree.
    """

    periods: tuple[Period, ...]
    weights: tuple[Mapping[Bucket, int], ...]
    wholes: tuple[Bucket, ...]
    notes: tuple[str, ...]

    def by_day(self) -> list[list[Bucket]]:
        """All rollups to be read, in the order of their days. What is told by a difference lies in one day."""
        wanted = {bucket for weights in self.weights for bucket in weights}
        wanted |= {part for whole in self.wholes for part in (whole, *whole.parts)}
        days: dict[int, list[Bucket]] = {}
        for bucket in sorted(wanted, key=lambda one: one.start_s):
            days.setdefault(bucket.start_s // DAY_S, []).append(bucket)
        return list(days.values())


def kept_at(now_s: float, retention: Retention) -> Kept:
    """What is still there at an instant of the store's clock. An hour or a minute goes so long after its end."""
    limit_s = now_s + READING_S
    return Kept(
        _up(limit_s - retention.minutes_s - MINUTE_S, MINUTE_S),
        _up(limit_s - retention.hours_s - HOUR_S, HOUR_S),
    )


def cover(asked: Sequence[Period], kept: Kept) -> Cover:
    """The rollups of these periods, which follow on one another. Raises MeterError for hours that are not kept."""
    periods = _reached(asked, kept)
    _refuse_lost_hours(asked, kept)
    weights = tuple(_weights(int(period.since_s), int(period.until_s)) for period in periods)
    return Cover(periods, weights, tuple(_wholes(weights, kept)), tuple(_notes(asked, periods, kept)))


def disagreeing(found: Cover, rollups: Mapping[Bucket, Rollup]) -> Iterator[Bucket]:
    """The cut rollups that are not the sum of their parts: these were made while less was kept than is now."""
    for whole in found.wholes:
        sums: dict[bytes, int] = defaultdict(int)
        for part in whole.parts:
            for field, value in rollups[part].items():
                sums[field] += value
        if sums != rollups[whole]:
            yield whole


def without(kept: Kept, gap: Bucket) -> Kept:
    """The same where a rollup's parts turned out not to be there."""
    end_s = gap.start_s + WIDTHS[gap.granularity]
    if gap.granularity == "day":
        return kept._replace(hours_from_s=max(kept.hours_from_s, end_s))
    return kept._replace(minutes_from_s=max(kept.minutes_from_s, end_s))


def instant(at_s: float) -> str:
    """An instant as a report shows it: UTC, to the second, with the fraction where there is one."""
    return datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")


def _weights(since_s: int, until_s: int) -> dict[Bucket, int]:
    weights = Counter(_rest_of_day(since_s))
    weights.update(Bucket("day", start) for start in range(_up(since_s, DAY_S), _up(until_s, DAY_S), DAY_S))
    weights.subtract(_rest_of_day(until_s))
    return {bucket: weight for bucket, weight in weights.items() if weight}


def _rest_of_day(edge_s: int) -> list[Bucket]:
    hour_s = _up(edge_s, HOUR_S)
    minutes = [Bucket("minute", start) for start in range(edge_s, hour_s, MINUTE_S)]
    return minutes + [Bucket("hour", start) for start in range(hour_s, _up(hour_s, DAY_S), HOUR_S)]


def _wholes(weights: Sequence[Mapping[Bucket, int]], kept: Kept) -> Iterator[Bucket]:
    """The hours whose minutes are used, and the days whose hours are, where all of them should be there."""
    used = {bucket for one in weights for bucket in one}
    hours = {bucket.start_s // HOUR_S * HOUR_S for bucket in used if bucket.granularity == "minute"}
    days = {bucket.start_s // DAY_S * DAY_S for bucket in used if bucket.granularity == "hour"}
    yield from (Bucket("hour", start) for start in sorted(hours) if start >= max(kept))
    yield from (Bucket("day", start) for start in sorted(days) if start >= kept.hours_from_s)


def _reached(asked: Sequence[Period], kept: Kept) -> tuple[Period, ...]:
    """The periods with their edges where they can be told; those of which nothing is left fall out."""
    edges = list(accumulate((_nearest(edge_s, kept) for edge_s in _edges(asked)), max))
    if edges[0] == edges[-1]:  # all of it lies between two edges: better too much than nothing
        first, last = asked[0].since_s, asked[-1].until_s
        edges = [_outwards(first, kept, _down)] * len(asked) + [_outwards(last, kept, _up)]
    moved = (
        period._replace(since_s=since_s, until_s=until_s)
        for period, (since_s, until_s) in zip(asked, pairwise(edges), strict=True)
    )
    return tuple(period for period in moved if period.since_s < period.until_s)


def _edges(periods: Sequence[Period]) -> list[float]:
    return [period.since_s for period in periods] + [periods[-1].until_s]


def _nearest(edge_s: float, kept: Kept) -> int:
    """The nearest edge that can be told, of two that are as near the earlier one."""
    for width_s in WIDTHS.values():
        down, up = _down(edge_s, width_s), _up(edge_s, width_s)
        nearest = down if edge_s - down <= up - edge_s else up
        if kept.reaches(nearest):
            break
    return nearest


def _outwards(edge_s: float, kept: Kept, rounded: Callable[[float, int], int]) -> int:
    return next(edge for width_s in WIDTHS.values() if kept.reaches(edge := rounded(edge_s, width_s)))


def _refuse_lost_hours(asked: Sequence[Period], kept: Kept) -> None:
    if asked[0].hour and any(abs(_nearest(edge_s, kept) - edge_s) > HOUR_S / 2 for edge_s in _edges(asked)):
        raise MeterError(
            f"--by hour: the store has figures per hour from {instant(kept.hours_from_s)} on; "
            "give a later --since, or --by day"
        )


def _notes(asked: Sequence[Period], periods: Sequence[Period], kept: Kept) -> Iterator[str]:
    """What was moved, and why."""
    since, until = (asked[0].since_s, periods[0].since_s), (asked[-1].until_s, periods[-1].until_s)
    moved = [f"begins at {instant(since[1])}, not at {instant(since[0])}"] if since[0] != since[1] else []
    moved += [f"ends at {instant(until[1])}, not at {instant(until[0])}"] if until[0] != until[1] else []
    inner = [edge_s for edge_s in _edges(asked)[1:-1] if _nearest(edge_s, kept) != edge_s]
    if inner:
        what, last_s = "hours" if asked[0].hour else "days", max(inner)
        nearest = instant(_nearest(last_s, kept))
        moved.append(f"{what} until {instant(last_s)} begin where it can be told, e.g. at {nearest} for that one")
    if moved:
        minutes, hours = instant(kept.minutes_from_s), instant(kept.hours_from_s)
        yield from moved
        yield f"there are figures per minute from {minutes} on, per hour from {hours} on, and per UTC day"


def _down(edge_s: float, width_s: int) -> int:
    return int(edge_s // width_s) * width_s


def _up(edge_s: float, width_s: int) -> int:
    return -_down(-edge_s, width_s)
