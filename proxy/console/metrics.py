"""The exposition: series and gauges as Prometheus families. The only owner of `prometheus_client`.

Global families come from the store and are the same on every replica; families that begin with `proxy_` are of this
installation's processes. One metric is never both. When the store is away the global families are left out, never zero.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from itertools import accumulate
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from proxy.child import OVERHEAD_BUCKETS_S, WorkerReport
from proxy.console.budgets import BudgetState
from proxy.console.reconciliation import Account, Gap
from proxy.console.series import Series
from proxy.ledger.answers import Snapshot
from proxy.ledger.families import FAMILIES, NANO, PREFIX
from proxy.pricing.catalog import Catalog
from proxy.pricing.fixed import FixedCost
from proxy.pricing.tariff import Seller, bands, rate_at
from proxy.usage import KINDS, Band

Place = tuple[Seller, str]
"""Whose prices, and a version of which there is one to show."""

Family = Metric
"""A metric family, ready to be encoded."""


class Gauge(NamedTuple):
    """A gauge family in the table below."""

    labels: tuple[str, ...]
    help: str


GAUGES: Final[Mapping[str, Gauge]] = {
    "version_info": Gauge(("version", "model", "fingerprint", "how"), "Always 1: what was seen of a version."),
    "version_first_seen_timestamp_seconds": Gauge(("version",), "When the version was first seen."),
    "version_last_seen_timestamp_seconds": Gauge(("version",), "When the version was last seen."),
    "spend_usd": Gauge(("version", "window"), "Exact spend of today and this month in the configured time zone."),
    "price_usd_per_million_tokens": Gauge(("upstream", "version", "kind", "band"), "The prices in force."),
    "price_band_active": Gauge(("upstream", "version", "band"), "1 for the band of this moment, else 0."),
    "price_review_timestamp_seconds": Gauge(("version",), "Until when the price was to be reviewed."),
    "version_fixed_cost_usd_per_hour": Gauge(
        ("upstream", "version", "item"), "What a version costs by the clock, from `[versions.X.fixed]`."
    ),
    "version_spend_limit_usd_per_hour": Gauge(
        ("version",), "The operator's limit, from `[versions.X]`; alerts use it."
    ),
    "budget_spend_usd": Gauge(
        ("budget",),
        "Spend of the budget's period so far, exactly; what was interrupted counts with all that was held for it.",
    ),
    "budget_reserved_usd": Gauge(("budget",), "Held for exchanges under way, as `reserve` says; not in the spend yet."),
    "budget_limit_usd": Gauge(("budget",), "What may be spent in a period."),
    "budget_period_seconds": Gauge(("budget",), "Length of the period under way; a rolling budget has none."),
    "budget_period_end_timestamp_seconds": Gauge(
        ("budget",), "When the period under way ends; a rolling budget has none."
    ),
    "budget_spend_cny": Gauge(("budget",), "The same of an account billed in yuan."),
    "budget_reserved_cny": Gauge(("budget",), "The same of an account billed in yuan."),
    "budget_limit_cny": Gauge(("budget",), "The same of an account billed in yuan."),
    "balance": Gauge(("currency", "part"), "The account's balance, granted and topped up, as the upstream tells it."),
    "balance_gap_usd": Gauge(
        (), "By how much the balance fell more than was metered in the last day, late settling allowed for."
    ),
    "balance_gap_cny": Gauge((), "The same of an account billed in yuan."),
    "store_up": Gauge((), "1 if Redis answers."),
    "store_catching_up": Gauge(
        (), "1 while Redis has forgotten what was shown and gets it again; the counters are left out."
    ),
    "store_epoch": Gauge((), "Raised when the store's history changed."),
    "store_snapshot_timestamp_seconds": Gauge((), "When the counters shown were read, by Redis' clock."),
    "proxy_in_flight_requests": Gauge(("worker",), "Exchanges under way."),
    "proxy_journal_pending_records": Gauge(("worker",), "Records written to the journal and not yet in the counters."),
    "proxy_journal_oldest_pending_seconds": Gauge(("worker",), "Age of the oldest of them."),
    "proxy_client_keys_age_seconds": Gauge(
        ("worker",), "How long ago the client keys were compared with Redis; -1: never. Managed mode only."
    ),
    "proxy_clock_offset_seconds": Gauge((), "How far our clock is ahead of Redis'; the clock decides price bands."),
}

PROCESS_COUNTERS: Final[Mapping[str, Gauge]] = {
    "proxy_metering_faults_total": Gauge(("worker", "stage"), "Faults of metering that the relay went on from."),
    "proxy_client_key_refusals_total": Gauge(
        ("worker", "code"), "Requests that managed mode refused, by the `code` of the answer."
    ),
    "proxy_client_key_limits_alone_total": Gauge(
        ("worker",), "Decisions about a client key's limits that a worker made by itself, Redis being away."
    ),
    "proxy_worker_restarts_total": Gauge((), "Workers that ended and were started again."),
    "proxy_streams_without_usage_total": Gauge(
        ("upstream",), "Streams that ended well and reported no usage; `[upstream] add_include_usage` may help."
    ),
    "proxy_estimate_checks_total": Gauge(
        ("version", "part"), "Exchanges with a reported usage that were estimated as well (a sample)."
    ),
    "proxy_estimate_reported_tokens_total": Gauge(("version", "part"), "Tokens reported in that sample."),
    "proxy_estimate_estimated_tokens_total": Gauge(("version", "part"), "Tokens estimated in that sample."),
    "proxy_estimate_error_tokens_total": Gauge(
        ("version", "part"), "Sum of the differences, without their signs; by reported tokens: the relative error."
    ),
}

PROCESS_HISTOGRAMS: Final[Mapping[str, Gauge]] = {
    "proxy_overhead_seconds": Gauge((), "Time added by the proxy before the first byte of the response."),
}


class _Collected(Collector):
    """A registry of families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(families: Iterable[Metric], accept: str) -> tuple[str, bytes]:
    """Content type and text, in the format the scraper accepts: classic, or OpenMetrics."""
    encode: Callable[[Collector], bytes]
    encode, content_type = choose_encoder(accept)
    return content_type, encode(_Collected(families))


def global_families(series: Series, *, created: bool) -> Iterator[Metric]:
    """The families that come from the store; with `created`, also since when each counter has been there."""
    for name, family in FAMILIES.items():
        if family.buckets:
            yield _histogram(name, family.labels, family.help, series, family.buckets)
        else:
            counter = CounterMetricFamily(PREFIX + name.removesuffix("_total"), family.help, labels=family.labels)
            for labels, value in sorted(series.counters[name].items()):
                counter.add_metric(labels, value, series.seen_s.get((name, labels)) if created else None)
            yield counter


def sighting_families(sightings: Mapping[bytes, bytes]) -> Iterator[Metric]:
    """What versions were seen, under which names and fingerprints, and when."""
    info = _gauge("version_info")
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for field, instants in sorted(sightings.items()):
        version, model, fingerprint, how = msgspec.json.decode(field, type=tuple[str, str, str, str])
        info.add_metric((version, model, fingerprint, how), 1)
        seen_first, seen_last = (float(instant) for instant in instants.split())
        first[version] = min(first.get(version, seen_first), seen_first)
        last[version] = max(last.get(version, seen_last), seen_last)
    yield info
    for name, seen in (("first", first), ("last", last)):
        family = _gauge(f"version_{name}_seen_timestamp_seconds")
        for version, instant in seen.items():
            family.add_metric((version,), instant)
        yield family


def spend_families(spend: Mapping[tuple[str, str], float]) -> Iterator[Metric]:
    """Exact spend by version and window."""
    family = _gauge("spend_usd")
    for labels, dollars in sorted(spend.items()):
        family.add_metric(labels, dollars)
    yield family


def price_families(catalog: Catalog, places: Iterable[Place], now_s: float) -> Iterator[Metric]:
    """The prices in force on each host, which band is active, and until when they were to be reviewed (the earliest of all hosts)."""
    price, active, review = (_gauge(name) for name in _PRICE_GAUGES)
    review_by: dict[str, date] = {}
    for seller, version in places:
        current = rate_at(catalog, version, "USD", now_s, seller=seller)
        if current is None:
            continue
        review_by[version] = min(review_by.get(version, date.max), current.review_by)
        if current.band is Band.UNKNOWN:
            active.add_metric((seller.name, version, Band.UNKNOWN.value), 1)
        for rate in bands(catalog, version, "USD", now_s, seller=seller):
            active.add_metric((seller.name, version, rate.band.value), float(rate.band is current.band))
            for kind, nanos in zip(_KINDS, rate.nanos_per_million, strict=True):
                price.add_metric((seller.name, version, kind, rate.band.value), nanos / NANO)
    for version, day in review_by.items():
        review.add_metric((version,), datetime.combine(day, time.min, UTC).timestamp())
    yield from (price, active, review)


def balance_families(accounts: Mapping[str, Account], gaps: Mapping[str, Gap]) -> Iterator[Metric]:
    """The account's balance by currency, and what of its fall nobody can explain."""
    family = _gauge("balance")
    for currency, account in sorted(accounts.items()):
        last = account.looks[-1]
        for part, nanos in (("granted", last.granted), ("topped_up", last.topped_up)):
            family.add_metric((currency, part), nanos / NANO)
    yield family
    for currency, gap in gaps.items():
        yield _gauge(f"balance_gap_{currency.lower()}", gap.nanos / NANO)


def budget_families(states: Iterable[BudgetState]) -> Iterator[Metric]:
    """What budgets have spent, hold and allow, each in its own currency."""
    families = {name: _gauge(name) for name in GAUGES if name.startswith("budget_")}
    for state in states:
        budget, currency = state.budget, state.budget.currency.lower()
        for name, nanos in (
            ("spend", state.spent_nanos),
            ("reserved", state.reserved_nanos),
            ("limit", budget.limit_nanos),
        ):
            families[f"budget_{name}_{currency}"].add_metric((budget.name,), nanos / NANO)
        if not budget.rolling_s:
            start_s, end_s = state.window
            families["budget_period_seconds"].add_metric((budget.name,), end_s - start_s)
            families["budget_period_end_timestamp_seconds"].add_metric((budget.name,), end_s)
    yield from (family for family in families.values() if family.samples)


def fixed_families(costs: Iterable[FixedCost], now_s: float, zone: ZoneInfo) -> Iterator[Metric]:
    """What versions cost by the clock."""
    family = _gauge("version_fixed_cost_usd_per_hour")
    for cost in costs:
        family.add_metric((cost.upstream, cost.version, cost.item), cost.nanos_in_hour(now_s, zone) / NANO)
    yield family


def limit_families(limits: Mapping[str, float]) -> Iterator[Metric]:
    """The spend limits of the settings, by version."""
    family = _gauge("version_spend_limit_usd_per_hour")
    for version, dollars in sorted(limits.items()):
        family.add_metric((version,), dollars)
    yield family


def store_families(snapshot: Snapshot | None, *, up: bool, catching_up: bool) -> Iterator[Metric]:
    """Whether the store answers, whether it has to catch up, and how old what is shown is."""
    yield _gauge("store_up", float(up))
    yield _gauge("store_catching_up", float(catching_up))
    if snapshot is not None:
        yield _gauge("store_epoch", float(max(snapshot.epoch, snapshot.history_s)))
        yield _gauge("store_snapshot_timestamp_seconds", snapshot.taken_s)


def process_families(
    reports: list[WorkerReport], overhead: tuple[list[int], float], restarts: int, clock_offset_s: float | None
) -> Iterator[Metric]:
    """What the processes of this installation say of themselves."""
    in_flight, pending, oldest = (_gauge(name) for name in _WORKER_GAUGES)
    faults = _process_counter("proxy_metering_faults_total")
    for report in reports:
        worker = str(report.slot)
        in_flight.add_metric((worker,), report.in_flight)
        pending.add_metric((worker,), report.pending_records)
        oldest.add_metric((worker,), report.oldest_pending_s)
        for stage, count in sorted(report.faults.items()):
            faults.add_metric((worker, stage), count)
    yield from (in_flight, pending, oldest, faults)
    restarted = _process_counter("proxy_worker_restarts_total")
    restarted.add_metric((), restarts)
    yield restarted
    yield _overhead_histogram(*overhead)
    if clock_offset_s is not None:
        yield _gauge("proxy_clock_offset_seconds", clock_offset_s)


def key_families(reports: Iterable[WorkerReport]) -> Iterator[Metric]:
    """What workers say of client keys; nothing in passthrough mode."""
    managed = [(report, report.keys_age_s) for report in reports if report.keys_age_s is not None]
    if not managed:
        return
    age = _gauge("proxy_client_keys_age_seconds")
    refusals, alone = (_process_counter(f"proxy_client_key_{name}_total") for name in ("refusals", "limits_alone"))
    for report, age_s in managed:
        worker = str(report.slot)
        age.add_metric((worker,), age_s)
        alone.add_metric((worker,), report.limits_alone)
        for code, count in sorted(report.key_refusals.items()):
            refusals.add_metric((worker, code), count)
    yield from (age, refusals, alone)


_KINDS: Final = tuple(kind.value for kind in KINDS)
_PRICE_GAUGES: Final = ("price_usd_per_million_tokens", "price_band_active", "price_review_timestamp_seconds")
_ESTIMATE_COUNTERS: Final = (
    "proxy_estimate_checks_total",
    "proxy_estimate_reported_tokens_total",
    "proxy_estimate_estimated_tokens_total",
    "proxy_estimate_error_tokens_total",
)
_WORKER_GAUGES: Final = (
    "proxy_in_flight_requests",
    "proxy_journal_pending_records",
    "proxy_journal_oldest_pending_seconds",
)


def estimate_families(
    estimates: Mapping[tuple[str, str], tuple[int, ...]], silent: Mapping[str, int]
) -> Iterator[Metric]:
    """How far estimates lie from reports, and which upstreams' streams report nothing."""
    streams = _process_counter("proxy_streams_without_usage_total")
    for upstream, count in sorted(silent.items()):
        streams.add_metric((upstream,), count)
    yield streams
    families = [_process_counter(name) for name in _ESTIMATE_COUNTERS]
    for place, figures in estimates.items():
        for family, figure in zip(families, figures, strict=True):
            family.add_metric(place, figure)
    yield from families


def _gauge(name: str, value: float | None = None) -> GaugeMetricFamily:
    gauge = GAUGES[name]
    if value is not None:
        return GaugeMetricFamily(PREFIX + name, gauge.help, value=value)
    return GaugeMetricFamily(PREFIX + name, gauge.help, labels=gauge.labels)


def _process_counter(name: str) -> CounterMetricFamily:
    counter = PROCESS_COUNTERS[name]
    return CounterMetricFamily(PREFIX + name.removesuffix("_total"), counter.help, labels=counter.labels)


def _histogram(
    name: str, labels: tuple[str, ...], help_text: str, series: Series, bounds: tuple[float, ...]
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(PREFIX + name, help_text, labels=labels)
    for values, histogram in sorted(series.histograms.get(name, {}).items()):
        family.add_metric(values, _buckets(bounds, histogram.cumulated), histogram.sum)
    return family


def _overhead_histogram(counts: list[int], sum_s: float) -> HistogramMetricFamily:
    name = "proxy_overhead_seconds"
    family = HistogramMetricFamily(PREFIX + name, PROCESS_HISTOGRAMS[name].help, labels=())
    family.add_metric((), _buckets(OVERHEAD_BUCKETS_S, tuple(accumulate(counts))), sum_s)
    return family


def _buckets(bounds: tuple[float, ...], cumulated: tuple[int, ...]) -> list[tuple[str, float]]:
    return [(str(bound), float(count)) for bound, count in zip((*bounds, "+Inf"), cumulated, strict=True)]
