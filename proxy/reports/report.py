"""What it cost: the rollups of an interval, grouped. Pure: what was read comes in, rows come out.

Rule 1: every sum is one of integers, so the rows always add up to the total, whatever they are grouped by.
Rule 2: USD and CNY stand side by side; nothing is converted, and nothing of one is added to the other.
Rule 3: what a version costs by the clock stands in a column of its own, never in the cost of tokens. It belongs to a version and a
        time: grouped by anything else it stands in the total alone.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from proxy.ledger.tally import Cell
from proxy.pricing.fixed import FixedCost
from proxy.reports.cover import Bucket, Cover, Rollup
from proxy.reports.figures import ALL_KINDS, Figures, measured, summed
from proxy.reports.interval import Period
from proxy.usage import KINDS

GROUPS: Final = ("version", "app", "model", "purpose", "kind", "day", "hour")
"""What a report can be grouped by."""

_OF_A_CELL: Final[tuple[str, ...]] = ("version", "app", "model", "purpose")
_OF_A_FIXED_COST: Final = frozenset({"version", "day", "hour"})

_Key = tuple[str, ...]


class Row(NamedTuple):
    """One group. `fixed_nanos` are nano-dollars by the clock; None where they cannot be divided so.

    `kinds` are the kinds of token it is about, by their places in `usage.KINDS`.
    """

    group: Mapping[str, str]
    period: Period
    figures: Figures
    kinds: tuple[int, ...] = ALL_KINDS
    fixed_nanos: int | None = None

    @property
    def requests(self) -> int | None:
        """Exchanges; None where the row is about one kind of token, since an exchange is of no kind."""
        return self.figures.all().requests if self.kinds == ALL_KINDS else None


class Report(NamedTuple):
    """The rows in the order of their groups, and their total. Instants are those that are really covered.

    `pending` is how many records were written and are not in the counters yet.
    """

    since_s: float
    until_s: float
    zone: str
    by: tuple[str, ...]
    currencies: tuple[str, ...]
    rows: tuple[Row, ...]
    total: Row
    notes: tuple[str, ...]
    pending: int = 0


def report(
    covered: Cover,
    rollups: Mapping[Bucket, Rollup],
    *,
    by: tuple[str, ...],
    currencies: tuple[str, ...],
    costs: Sequence[FixedCost],
    now_s: float,
    zone: ZoneInfo,
) -> Report:
    """What was counted in the periods of `covered`, of which `rollups` were read. Raises MeterError where they disagree."""
    groups = _counted(covered, rollups, by)
    whole = Period(covered.periods[0].since_s, covered.periods[-1].until_s)
    divisible = set(by) <= _OF_A_FIXED_COST
    fixed = _fixed(costs, covered.periods, now_s, zone, by_version="version" in by)
    if divisible:
        for key in fixed:
            groups[key]  # a version that nobody asked costs by the clock, too
    rows = [
        row
        for key, figures in groups.items()
        for row in _rows(covered.periods, key, figures, by, fixed.get(key, 0) if divisible else None)
    ]
    total = Figures()
    for figures in groups.values():
        total.merge(figures)
    return Report(
        whole.since_s,
        whole.until_s,
        str(zone),
        by,
        currencies,
        tuple(sorted(rows, key=lambda row: _order(row, by))),
        Row({}, whole, total, fixed_nanos=sum(fixed.values())),
        (*covered.notes, *_fixed_notes(costs, divisible=divisible)),
    )


_Group = tuple[int, _Key]
"""The number of the period, and what the cell says to the groups asked for."""


def _counted(covered: Cover, rollups: Mapping[Bucket, Rollup], by: tuple[str, ...]) -> dict[_Group, Figures]:
    groups: dict[_Group, Figures] = defaultdict(Figures)
    for number, weights in enumerate(covered.weights):
        fields = summed((rollups[bucket], weight) for bucket, weight in weights.items())
        for cell, one in measured(fields):
            groups[number, _key(cell, by)].add(cell, one)
    return groups


def _key(cell: Cell, by: tuple[str, ...]) -> _Key:
    return tuple(getattr(cell, name) for name in _OF_A_CELL if name in by)


def _rows(
    periods: Sequence[Period], group: _Group, figures: Figures, by: tuple[str, ...], fixed_nanos: int | None
) -> Iterable[Row]:
    """The rows of a group: one, or one for each kind of which there is something."""
    number, key = group
    period = periods[number]
    named: dict[str, str] = dict(zip((name for name in _OF_A_CELL if name in by), key, strict=True))
    named |= {"day": period.day, "hour": period.hour}
    if "kind" not in by:
        return [Row({name: named[name] for name in by}, period, figures, fixed_nanos=fixed_nanos)]
    whole = figures.all()
    return [
        Row({name: {**named, "kind": kind.value}[name] for name in by}, period, figures, (place,))
        for place, kind in enumerate(KINDS)
        if whole.present((place,))
    ]


def _order(row: Row, by: tuple[str, ...]) -> tuple[object, ...]:
    """Groups by name, days and hours by time, kinds in their order."""
    of_time = {"day": row.period.since_s, "hour": row.period.since_s, "kind": row.kinds[0]}
    return tuple(of_time.get(name, row.group[name]) for name in by)


def _fixed(
    costs: Sequence[FixedCost], periods: Sequence[Period], now_s: float, zone: ZoneInfo, *, by_version: bool
) -> dict[_Group, int]:
    """What versions cost by the clock in each period, until now. As differences of one running sum, so that they add up."""
    start_s = periods[0].since_s
    found: dict[_Group, int] = defaultdict(int)
    for cost in costs:
        for number, period in enumerate(periods):
            until, since = (
                cost.nanos_between(start_s, max(start_s, min(edge_s, now_s)), zone)
                for edge_s in (period.until_s, period.since_s)
            )
            found[number, (cost.version,) if by_version else ()] += until - since
    return {group: nanos for group, nanos in found.items() if nanos}


def _fixed_notes(costs: Sequence[FixedCost], *, divisible: bool) -> Iterable[str]:
    if costs:
        yield "fixed costs: in US dollars, as the settings state them today, for the whole interval" + (
            "" if divisible else "; they belong to versions and stand in the total alone"
        )
