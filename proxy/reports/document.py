"""A report for machines: one JSON document, or CSV. Pure. Money is decimal text to the last nano-unit, tokens are integers."""

import csv
import io
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from proxy.pricing.tariff import decimal
from proxy.reports.cover import instant
from proxy.reports.figures import Measured
from proxy.reports.report import Report, Row
from proxy.usage import KINDS

_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula. Names come from clients."""


def as_json(report: Report) -> bytes:
    """The document: what is covered, `rows` with their groups, and `total`. A cost that nobody can tell is null."""
    return msgspec.json.encode(
        {
            "since": instant(report.since_s),
            "until": instant(report.until_s),
            "time_zone": report.zone,
            "by": report.by,
            "currencies": report.currencies,
            "pending_records": report.pending,
            "notes": report.notes,
            "rows": [{**row.group, **_when(row), **_figures(row, report.currencies)} for row in report.rows],
            "total": _figures(report.total, report.currencies),
        }
    )


def as_csv(report: Report) -> str:
    """One header and the rows, without a total, which every sum would take in. What nobody can tell is empty."""
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    blank = report.total._replace(group=dict.fromkeys(report.by, ""))
    writer.writerow(name for name, _ in _columns(blank, report))
    writer.writerows([value for _, value in _columns(row, report)] for row in report.rows)
    return written.getvalue()


def _when(row: Row) -> dict[str, str]:
    """When a day or an hour really began and ended."""
    period = row.period
    return {"since": instant(period.since_s), "until": instant(period.until_s)} if period.day else {}


def _figures(row: Row, currencies: tuple[str, ...]) -> dict[str, Any]:
    whole = row.figures.all()
    return {
        "requests": row.requests,
        "tokens": {**{KINDS[kind].value: whole.tokens[kind] for kind in row.kinds}, "total": whole.count(row.kinds)},
        "cost": {currency: _costs(whole, currency, row) for currency in currencies},
        "unpriced_tokens": {currency: whole.count_unpriced(currency, row.kinds) for currency in currencies},
        "sources": {source: _part(part, currencies, row) for source, part in row.figures.by_source.items()},
        "uncertain": _part(row.figures.uncertain, currencies, row),
        "fixed_cost": None if row.fixed_nanos is None else {"USD": decimal(row.fixed_nanos)},
    }


def _costs(whole: Measured, currency: str, row: Row) -> dict[str, str | None]:
    by_kind = {KINDS[kind].value: _money(whole.cost(currency, (kind,))) for kind in row.kinds}
    return {**by_kind, "total": _money(whole.cost(currency, row.kinds))}


def _part(part: Measured, currencies: tuple[str, ...], row: Row) -> dict[str, Any]:
    return {
        "requests": None if row.requests is None else part.requests,
        "tokens": part.count(row.kinds),
        "cost": {currency: _money(part.cost(currency, row.kinds)) for currency in currencies},
    }


def _money(nanos: int | None) -> str | None:
    return None if nanos is None else decimal(nanos)


def _columns(row: Row, report: Report) -> Iterator[tuple[str, Any]]:
    """The columns of a row, by name: its document laid flat. A row of one kind has totals alone."""
    figures, divided = _figures(row, report.currencies), "kind" not in report.by
    yield from ((name, _harmless(value)) for name, value in row.group.items())
    if {"day", "hour"} & set(report.by):
        yield from (("since", instant(row.period.since_s)), ("until", instant(row.period.until_s)))
    yield "requests", figures["requests"]
    yield from _by_kind("tokens", figures["tokens"], divided=divided)
    for currency in report.currencies:
        yield from _by_kind(f"cost_{currency.lower()}", figures["cost"][currency], divided=divided)
        yield f"unpriced_tokens_{currency.lower()}", figures["unpriced_tokens"][currency]
    for name, part in (("estimated", figures["sources"]["estimated"]), ("uncertain", figures["uncertain"])):
        yield f"{name}_tokens", part["tokens"]
        yield from ((f"{name}_cost_{currency.lower()}", part["cost"][currency]) for currency in report.currencies)
    yield "fixed_cost_usd", figures["fixed_cost"] and figures["fixed_cost"]["USD"]


def _by_kind(name: str, values: dict[str, Any], *, divided: bool) -> Iterator[tuple[str, Any]]:
    return ((f"{name}_{kind}", value) for kind, value in values.items() if divided or kind == "total")


def _harmless(name: str) -> str:
    """A name as text also where a spreadsheet would calculate it."""
    return f"'{name}" if name.startswith(_FORMULA) else name
