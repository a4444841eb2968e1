"""The tally: a batch of records folded into the few integers that Redis has to add. Pure.

Rule 1: everything in a batch is an integer to be added, or a sighting; the order of batches makes no difference to a sum.
Rule 2: records are first summed per cell and minute, then written out as counters: 1,000 records become a few dozen
        additions.
Rule 3: a zero is not written. The console shows zeros for what is in force.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec

from proxy.ledger.families import (
    DURATION_BUCKETS_S,
    FIRST_CHUNK_BUCKETS_S,
    MICRO,
    field_of,
    series_field,
)
from proxy.usage import CURRENCIES, KINDS, UsageRecord

MINUTE_S: Final = 60
HOUR_S: Final = 3600
DAY_S: Final = 86_400
SPEND_BUCKET_S: Final = 900
"""Spend is kept per quarter of an hour: the finest offset of a time zone, so that any zone's day can be summed exactly."""

SPEND_KEPT_S: Final = 70 * DAY_S


BUDGETS: Final = "budget:"
"""What the names of the budgets' hashes begin with."""

_Extras = dict[tuple[str, ...], int]
"""Counts by family and labels (of a histogram: its part behind them), before they are written as fields."""


class Retention(msgspec.Struct, frozen=True):
    """How long rollups stay, in seconds. Days are kept for good."""

    minutes_s: int = 48 * HOUR_S
    hours_s: int = 35 * DAY_S


def _additions(name: str, expires_s: int, fields: dict[str, int]) -> "Additions":
    """The additions of a hash without those of nothing."""
    return Additions(name, expires_s, {field: value for field, value in fields.items() if value})


class Additions(msgspec.Struct, frozen=True):
    """Integers to add to the fields of one hash. `expires_s` is an instant (0: never); an expired hash is skipped."""

    hash: str
    expires_s: int
    fields: dict[str, int]


class Batch(msgspec.Struct, frozen=True):
    """Records `first` to `last` of one journal, folded. Applied as a whole or not at all.

    `relied_on` are the numbers of revisions that the records' versions were made with, by the registry's field; `settled`
    are the exchanges for which something may be reserved that is theirs no more.
    """

    journal_id: str
    first: int
    last: int
    additions: list[Additions]
    sums: dict[str, int]
    sightings: dict[str, tuple[float, float]]
    records: list[tuple[str, str]]
    quarantined: list[str]
    relied_on: dict[str, int] = {}
    settled: list[str] = []


class Cell(NamedTuple):
    """What the rollups keep apart. The price ids are those of the charges, in their order."""

    upstream: str
    version: str
    model: str
    api: str
    app: str
    purpose: str
    source: str
    outcome: str
    band: str
    price_ids: tuple[tuple[str, str], ...]


class _Sums:
    """What is summed of a cell: exchanges, tokens by kind, and nano-units by currency and kind."""

    __slots__ = ("nanos", "requests", "tokens", "uncertain")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = [0, 0, 0, 0]
        self.nanos: dict[str, list[int]] = {}
        self.uncertain: dict[str, int] = {}

    def add(self, record: UsageRecord) -> None:
        self.requests += 1
        usage = record.usage
        if usage is None:
            return
        tokens = self.tokens
        tokens[0] += usage.input_cache_hit
        tokens[1] += usage.input_cache_miss
        tokens[2] += usage.output_reasoning
        tokens[3] += usage.output_answer
        for charge in record.charges:
            nanos = self.nanos.setdefault(charge.currency, [0, 0, 0, 0])
            for index, value in enumerate(charge.nanos):
                nanos[index] += value
            if charge.uncertain_nanos:
                self.uncertain[charge.currency] = self.uncertain.get(charge.currency, 0) + charge.uncertain_nanos

    def merge(self, other: "_Sums") -> None:
        self.requests += other.requests
        for index in range(4):
            self.tokens[index] += other.tokens[index]
        for currency, nanos in other.nanos.items():
            mine = self.nanos.setdefault(currency, [0, 0, 0, 0])
            for index in range(4):
                mine[index] += nanos[index]
        for currency, value in other.uncertain.items():
            self.uncertain[currency] = self.uncertain.get(currency, 0) + value


def fold(
    journal_id: str,
    first: int,
    records: Sequence[UsageRecord],
    retention: Retention,
    texts: Sequence[str] = (),
    *,
    relied_on: Mapping[str, int] | None = None,
) -> Batch:
    """The batch of `records`, which stand in their journal under `first` and the numbers behind it.

    `texts` are the records as JSON, where somebody has them already. `relied_on` goes into the batch as it is.
    """
    texts = texts or [msgspec.json.encode(record).decode() for record in records]
    cells: dict[tuple[int, Cell], _Sums] = defaultdict(_Sums)
    extras: _Extras = defaultdict(int)
    sightings: dict[str, tuple[float, float]] = {}
    for record in records:
        minute = int(record.pricing_instant_s) // MINUTE_S * MINUTE_S
        cells[minute, _cell(record)].add(record)
        _count_extras(record, extras)
        _note_sighting(record, sightings)
    return Batch(
        journal_id=journal_id,
        first=first,
        last=first + len(records) - 1,
        additions=[_totals(cells, extras), *_rollups(cells, retention), *_spend(cells), *_budgets(records)],
        sums=_running_sums(cells),
        sightings=sightings,
        records=[(record.exchange_id, text) for record, text in zip(records, texts, strict=True)],
        quarantined=[],
        relied_on=dict(relied_on or {}),
        settled=[record.exchange_id for record in records if record.is_reserved],
    )


def quarantine(journal_id: str, number: int, payload: bytes) -> Batch:
    """The batch that sets one record aside that cannot be applied, and counts it."""
    counted = Additions("totals", 0, {series_field("records_quarantined_total"): 1})
    text = payload.decode("utf-8", "replace")
    return Batch(journal_id, number, number, [counted], {}, {}, [], [text])


def unreplayable(journal_id: str, first: int, last: int) -> Batch:
    """The batch that enters a range of numbers as lost: its segments are gone, and Redis never had them."""
    counted = Additions("totals", 0, {series_field("records_unreplayable_total"): last - first + 1})
    return Batch(journal_id, first, last, [counted], {}, {}, [], [])


def cell_of(field: str) -> tuple[Cell, str]:
    """The cell and the measure (`n`, `t0`-`t3`, `USD0`-`USD3`, ...) of a rollup's field."""
    head, bracket, measure = field.rpartition("]")
    return msgspec.json.decode(head + bracket, type=Cell), measure


def rollup_hash(granularity: str, start_s: int) -> str:
    """The name of a rollup's hash: `rollup:minute:…`, `rollup:hour:…`, `rollup:day:…`, by its UTC start in seconds."""
    return f"rollup:{granularity}:{start_s}"


def spend_hash(instant_s: float) -> str:
    """The name of the hash that keeps the spend of an instant's month (UTC)."""
    return f"spend:{datetime.fromtimestamp(instant_s, UTC):%Y-%m}"


def budget_hash(name: str) -> str:
    """The name of the hash that keeps what a budget has spent, and what is held in it, per bucket."""
    return f"{BUDGETS}{name}"


def _cell(record: UsageRecord) -> Cell:
    charges = record.charges
    return Cell(
        record.upstream,
        record.version,
        record.model,
        record.api.value,
        record.app,
        record.purpose.value,
        record.source.value,
        record.outcome.value,
        charges[0].band.value if charges else "",
        tuple((charge.currency, charge.price_id) for charge in charges),
    )


def _count_extras(record: UsageRecord, extras: _Extras) -> None:
    """What is counted per record and is not a sum of a cell: missing usages, violations, histograms."""
    if record.missing is not None:
        extras["requests_without_usage_total", record.version, record.model, record.missing.value] += 1
    if record.refused_by:
        extras["budget_refusals_total", record.refused_by] += 1
    for rule in record.violations:
        extras["usage_violations_total", record.version, record.model, rule.value] += 1
    if record.version_mismatch:
        extras["version_mismatches_total", record.version_mismatch, record.version] += 1
    for charge in record.charges:
        if charge.currency == "USD":
            extras["cache_savings_usd_total", record.version, record.model] += charge.saved_nanos
            extras["peak_premium_usd_total", record.version, record.model] += charge.premium_nanos
    _observe("request_duration_seconds", DURATION_BUCKETS_S, record.version, record.duration_s, extras)
    if record.first_chunk_s:
        first_chunk = record.first_chunk_after_s
        _observe("time_to_first_chunk_seconds", FIRST_CHUNK_BUCKETS_S, record.version, first_chunk, extras)


def _observe(family: str, bounds: tuple[float, ...], version: str, seconds: float, extras: _Extras) -> None:
    extras[family, version, str(bisect_left(bounds, seconds))] += 1
    extras[family, version, "sum"] += round(seconds * MICRO)


def _note_sighting(record: UsageRecord, sightings: dict[str, tuple[float, float]]) -> None:
    """When a version was first and last seen under a name, a fingerprint and a way of telling it."""
    if record.served_model or record.usage is not None:
        parts = (record.version, record.model, record.fingerprint, record.how.value)
        field = msgspec.json.encode(parts).decode()
        first, last = sightings.get(field, (record.end_s, record.end_s))
        sightings[field] = (min(first, record.end_s), max(last, record.end_s))


def _totals(cells: dict[tuple[int, Cell], _Sums], extras: _Extras) -> Additions:
    fields: dict[str, int] = defaultdict(int, {field_of(parts): value for parts, value in extras.items()})
    for cell, sums in _without_minute(cells).items():
        _add_requests(cell, sums, fields)
        _add_tokens(cell, sums, fields)
        _add_cost(cell, sums, fields)
        _add_unpriced(cell, sums, fields)
    return _additions("totals", 0, fields)


def _add_requests(cell: Cell, sums: _Sums, fields: dict[str, int]) -> None:
    place = (cell.upstream, cell.version, cell.model)
    fields[series_field("requests_total", *place, cell.api, cell.outcome)] += sums.requests
    fields[series_field("app_requests_total", cell.app, cell.version)] += sums.requests


def _add_tokens(cell: Cell, sums: _Sums, fields: dict[str, int]) -> None:
    place = (cell.upstream, cell.version, cell.model)
    for kind, tokens in zip(KINDS, sums.tokens, strict=True):
        if tokens:
            fields[series_field("tokens_total", *place, kind, cell.source)] += tokens
            fields[series_field("app_tokens_total", cell.app, cell.version, kind)] += tokens


def _add_cost(cell: Cell, sums: _Sums, fields: dict[str, int]) -> None:
    place = (cell.upstream, cell.version, cell.model)
    for currency, nanos in sums.nanos.items():
        family = f"cost_{currency.lower()}_total"
        for kind, value in zip(KINDS, nanos, strict=True):
            if value:
                fields[series_field(family, *place, kind, cell.source)] += value
    dollars = sum(sums.nanos.get("USD", ()))
    fields[series_field("app_cost_usd_total", cell.app, cell.version)] += dollars
    fields[series_field("purpose_cost_usd_total", cell.purpose, cell.version)] += dollars
    fields[series_field("cost_uncertain_usd_total", cell.version)] += sums.uncertain.get("USD", 0)


def _add_unpriced(cell: Cell, sums: _Sums, fields: dict[str, int]) -> None:
    place = (cell.upstream, cell.version, cell.model)
    priced = {currency for currency, _ in cell.price_ids}
    for currency in CURRENCIES:
        if currency in priced:
            continue
        for kind, tokens in zip(KINDS, sums.tokens, strict=True):
            if tokens:
                fields[series_field("unpriced_tokens_total", *place, kind, currency)] += tokens


def _without_minute(cells: dict[tuple[int, Cell], _Sums]) -> dict[Cell, _Sums]:
    merged: dict[Cell, _Sums] = defaultdict(_Sums)
    for (_, cell), sums in cells.items():
        merged[cell].merge(sums)
    return merged


def _rollups(cells: dict[tuple[int, Cell], _Sums], retention: Retention) -> list[Additions]:
    found: list[Additions] = []
    for granularity, width_s, kept_s in (
        ("minute", MINUTE_S, retention.minutes_s),
        ("hour", HOUR_S, retention.hours_s),
        ("day", DAY_S, 0),
    ):
        buckets: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for (minute, cell), sums in cells.items():
            _add_rollup(cell, sums, buckets[minute // width_s * width_s])
        for start, fields in sorted(buckets.items()):
            expires = start + width_s + kept_s if kept_s else 0
            found.append(_additions(rollup_hash(granularity, start), expires, fields))
    return found


def _add_rollup(cell: Cell, sums: _Sums, fields: dict[str, int]) -> None:
    """A cell's measures: `n` exchanges, `t0`-`t3` tokens by kind, `USD0`-`USD3` nano-units by kind."""
    head = msgspec.json.encode(cell).decode()
    fields[f"{head}n"] += sums.requests
    for index, tokens in enumerate(sums.tokens):
        if tokens:
            fields[f"{head}t{index}"] += tokens
    for currency, nanos in sums.nanos.items():
        for index, value in enumerate(nanos):
            if value:
                fields[f"{head}{currency}{index}"] += value


def _spend(cells: dict[tuple[int, Cell], _Sums]) -> list[Additions]:
    """What each version cost per quarter of an hour, in a hash per month."""
    months: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    expiries: dict[str, int] = {}
    for (minute, cell), sums in cells.items():
        quarter = minute // SPEND_BUCKET_S * SPEND_BUCKET_S
        month = spend_hash(quarter)
        for currency, nanos in sums.nanos.items():
            field = msgspec.json.encode((cell.version, currency, quarter)).decode()
            months[month][field] += sum(nanos)
            expiries[month] = max(expiries.get(month, 0), quarter + SPEND_KEPT_S)
    return [_additions(month, expiries[month], fields) for month, fields in sorted(months.items())]


def _budgets(records: Sequence[UsageRecord]) -> list[Additions]:
    """What the records took of budgets, by bucket."""
    taken: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for record in records:
        for share in record.shares:
            taken[share.budget][f"spent:{share.bucket_s}"] += share.taken_nanos
    return [_additions(budget_hash(name), 0, fields) for name, fields in sorted(taken.items())]


def _running_sums(cells: dict[tuple[int, Cell], _Sums]) -> dict[str, int]:
    """What `verify` compares with the totals: records, tokens and nano-units of this journal."""
    sums: dict[str, int] = defaultdict(int)
    for cell in cells.values():
        sums["records"] += cell.requests
        sums["tokens"] += sum(cell.tokens)
        for currency, nanos in cell.nanos.items():
            sums[f"nano_{currency.lower()}"] += sum(nanos)
    return {name: value for name, value in sums.items() if value}
