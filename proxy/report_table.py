"""A report in the terminal: tokens above, money below, numbers to the right.

Money is rounded here, and only here, each figure by itself; what is not zero is never shown as zero.
"""

from collections.abc import Callable, Iterable, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final, NamedTuple

from rich.console import Console as Terminal
from rich.table import Table
from rich.text import Text

from proxy.pricing.rows import NANOS
from proxy.reports.cover import instant
from proxy.reports.figures import Measured
from proxy.reports.report import Report, Row
from proxy.usage import KINDS

WIDTH: Final = 100
GROUP_WIDTH: Final = 14
"""What the name of a group is left at least, when numbers are long."""

_HEADS: Final = ("cache hit", "cache miss", "reasoning", "answer")
_TOTAL: Final = "total"


class _Column(NamedTuple):
    """A column of numbers: its heading, and the lines that stand in it."""

    head: str
    lines: Callable[[Row], Sequence[str]]


def show(made: Report, decimals: int) -> None:
    """What is covered, the table, what of it is no plain fact, and what else there is to say."""
    drawn = list(_tables(made, decimals))
    terminal = Terminal(width=max(WIDTH, *(width for _, width in drawn), 0))
    terminal.print(Text(f"{instant(made.since_s)} to {instant(made.until_s)}, time zone {made.zone}"))
    if not made.rows:
        terminal.print("nothing was recorded in this interval")
    for table, _ in drawn:
        terminal.print()
        terminal.print(table)
    for note in made.notes:
        terminal.print(Text(f"note: {note}"))


def _tables(made: Report, decimals: int) -> Iterable[tuple[Table, int]]:
    if made.rows or made.total.fixed_nanos:  # what costs by the clock costs without traffic, too
        yield _drawn(made, _counted_columns(made, decimals), made.rows)
    labelled = [row for row in made.rows if _labelled(row, made.currencies)]
    if labelled:
        yield _drawn(made, _labelled_columns(made, decimals), labelled)


def _counted_columns(made: Report, decimals: int) -> list[_Column]:
    """Exchanges, tokens and cost by kind, and what a version costs by the clock where there is such a thing."""

    def part(kinds: tuple[int, ...] | None) -> Callable[[Row], Sequence[str]]:
        return lambda row: _lines(row.figures.all(), kinds or row.kinds, made.currencies, decimals)

    by_kind = [] if "kind" in made.by else [_Column(_HEADS[place], part((place,))) for place in range(len(KINDS))]
    fixed = [_Column("fixed USD", lambda row: [_money(row.fixed_nanos, decimals, unknown="")])]
    return [
        _Column("requests", lambda row: ["" if row.requests is None else f"{row.requests:,}"]),
        _Column("", lambda _row: ["tokens", *made.currencies]),
        *by_kind,
        _Column(_TOTAL, part(None)),
        *(fixed if made.total.fixed_nanos else []),
    ]


def _labelled_columns(made: Report, decimals: int) -> list[_Column]:
    """What of it was estimated, was charged at a price that may turn out lower, and has no price; what there is of it."""

    def part(of: Callable[[Row], Measured]) -> Callable[[Row], Sequence[str]]:
        return lambda row: _lines(of(row), row.kinds, made.currencies, decimals) if of(row).count(row.kinds) else [""]

    columns = [
        (_Column("estimated", part(lambda row: row.figures.estimated)), made.total.figures.estimated.count()),
        (
            _Column("at an uncertain price", part(lambda row: row.figures.uncertain)),
            made.total.figures.uncertain.count(),
        ),
        (
            _Column("without a price", lambda row: ["", *_unpriced(row, made.currencies)]),
            any(_unpriced(made.total, made.currencies)),
        ),
    ]
    return [
        _Column("of these", lambda _row: ["tokens", *made.currencies]),
        *(column for column, there in columns if there),
    ]


def _labelled(row: Row, currencies: tuple[str, ...]) -> bool:
    parts = (row.figures.estimated, row.figures.uncertain)
    return any(part.count(row.kinds) for part in parts) or any(_unpriced(row, currencies))


def _unpriced(row: Row, currencies: tuple[str, ...]) -> list[str]:
    whole = row.figures.all()
    counts = [whole.count_unpriced(currency, row.kinds) for currency in currencies]
    return [f"{count:,} tokens" if count else "" for count in counts]


def _lines(part: Measured, kinds: tuple[int, ...], currencies: tuple[str, ...], decimals: int) -> list[str]:
    money = (_money(part.cost(currency, kinds), decimals, unknown="unpriced") for currency in currencies)
    return [f"{part.count(kinds):,}", *money]


def _money(nanos: int | None, decimals: int, *, unknown: str) -> str:
    if nanos is None:
        return unknown
    least = Decimal(1).scaleb(-decimals)
    rounded = (Decimal(nanos) / NANOS).quantize(least, ROUND_HALF_EVEN)
    return f"<{least}" if nanos and not rounded else f"{rounded:,}"


def _drawn(made: Report, columns: Sequence[_Column], rows: Sequence[Row]) -> tuple[Table, int]:
    """The table with its total, and how wide it is at least: numbers are never cut."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in made.by:
        table.add_column(name, overflow="fold")
    cells = [["\n".join(column.lines(row)) for column in columns] for row in (*rows, made.total)]
    for column in columns:
        table.add_column(column.head, justify="right", no_wrap=True)
    for row, numbers in zip((*rows, made.total), cells, strict=True):
        names = [row.group[name] for name in made.by] if row.group else [_TOTAL, *[""] * (len(made.by) - 1)]
        table.add_row(*(Text(name) for name in names), *map(Text, numbers))
    widths = [
        max(len(line) for text in (column.head, *texts) for line in text.split("\n"))
        for column, texts in zip(columns, zip(*cells, strict=True), strict=True)
    ]
    return table, sum(widths) + 2 * len(widths) + (GROUP_WIDTH + 2) * len(made.by)
