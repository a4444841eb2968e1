"""The exposition, read back with the parsers of Prometheus' own library."""

import asyncio
import json
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest
from console.given import report, snapshot
from ledger.given import NOW_S, record
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics

from proxy.catalog_files import builtin_catalog
from proxy.console import metrics
from proxy.console.app import Console, Upstreams
from proxy.console.budgets import BudgetState
from proxy.console.reconciliation import Account, Gap, Look
from proxy.console.series import series_of, zeros_from_start
from proxy.console.workers import Workers
from proxy.errors import StoreUnavailableError
from proxy.ledger.families import FAMILIES, PREFIX
from proxy.ledger.tally import Retention, fold
from proxy.pricing.budgets import Budget, Span
from proxy.pricing.catalog import in_force
from proxy.pricing.fixed import FixedCost
from proxy.pricing.tariff import Seller
from proxy.settings import Settings
from proxy.usage import CURRENCIES, Band, Charge, Missing, Rule

ACCOUNT = Account((Look(NOW_S, 10**9, 2 * 10**9, 0, 0),))
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
PARSERS = {
    "text/plain": parser.text_string_to_metric_families,
    OPENMETRICS: openmetrics.text_string_to_metric_families,
}
ODD = 'quo"te\\ back\nslash 🚢 {}'

RECORDS = [
    record(1),
    record(2, model=ODD, app=ODD, version="W", charges=(Charge("USD", "p", Band.UNKNOWN, (1, 2, 3, 4), 5),)),
    record(3, version_mismatch=ODD, missing=Missing.NOT_REPORTED, violations=(Rule.TOTAL_SUM,), refused_by="b"),
]
SIGHTINGS = {
    json.dumps(["V", "m", "f1", "alias"]).encode(): b"100.5 200.25",
    json.dumps(["V", "m", "f2", "fingerprint"]).encode(): b"50 150",
}
BUDGETS = [
    BudgetState(Budget(currency, 10**9, currency), spent_nanos=5, reserved_nanos=2, window=Span(0, 3600))
    for currency in CURRENCIES
]
TABLES = {**{name: family.labels for name, family in FAMILIES.items()}} | {
    name: gauge.labels
    for name, gauge in {**metrics.GAUGES, **metrics.PROCESS_COUNTERS, **metrics.PROCESS_HISTOGRAMS}.items()
}
HISTOGRAMS = {name for name, family in FAMILIES.items() if family.buckets} | set(metrics.PROCESS_HISTOGRAMS)


def places(catalog, at_s):
    """The default host with the versions in force."""
    return [(Seller("default"), version) for version, _ in in_force(catalog, at_s)]


def shown(*, created=False):
    """Everything the console can show, at once."""
    catalog = builtin_catalog()
    totals = fold("j", 1, RECORDS, Retention()).additions[0].fields
    totals = {**totals, '["records_unreplayable_total"]': 1, '["records_quarantined_total"]': 2}
    totals |= {'["version_changes_total","m"]': 1, '["budget_refusals_total","B"]': 1}
    totals |= {f'["{name}","V","m"]': 1 for name in ("cache_savings_usd_total", "peak_premium_usd_total")}
    taken = snapshot(totals, sightings=SIGHTINGS)
    series = series_of(taken, 15.0, zeros_from_start(in_force(catalog, NOW_S), "default"))
    return [
        *metrics.store_families(taken, up=True, catching_up=False),
        *metrics.global_families(series, created=created),
        *metrics.sighting_families(taken.sightings),
        *metrics.spend_families({("V", "today"): 1.5, ("V", "month"): 2.5}),
        *metrics.price_families(catalog, places(catalog, NOW_S), NOW_S),
        *metrics.limit_families({"V": 2.5}),
        *metrics.budget_families(BUDGETS),
        *metrics.balance_families({"USD": ACCOUNT}, dict.fromkeys(("USD", "CNY"), Gap(0.0, 3, 0, 1, 2, 1))),
        *metrics.fixed_families([FixedCost("default", "V", "gpu", 5 * 10**8)], NOW_S, ZoneInfo("UTC")),
        *metrics.process_families([report(0), report(1)], ([1, 2, *[0] * 10], 0.5), 3, 0.25),
        *metrics.key_families(
            [report(0), report(1, keys_age_s=0.5, key_refusals={"path_not_open": 2}, limits_alone=1)]
        ),
        *metrics.estimate_families({("V", "prompt"): (5, 100, 98, 4)}, {"default": 2}),
    ]


def samples(accept, families):
    content_type, text = metrics.exposition(families, accept)
    found = [sample for family in PARSERS[accept](text.decode()) for sample in family.samples]
    return content_type, found


def table_name(sample):
    """The name in our tables that a sample belongs to."""
    name = sample.name.removeprefix(PREFIX)
    if name in TABLES:
        return name
    for ending in ("_bucket", "_sum", "_count"):
        if name.endswith(ending) and name.removesuffix(ending) in HISTOGRAMS:
            return name.removesuffix(ending)
    return name.removesuffix("_created") + "_total" if name.endswith("_created") else name


def test_client_keys_are_shown_in_managed_mode_alone():
    """By worker; where nobody has keys of ours there is nothing to show."""
    managed = report(1, keys_age_s=0.5, key_refusals={"path_not_open": 2}, limits_alone=3)
    _, found = samples("text/plain", metrics.key_families([report(0), managed]))
    values = {(one.name.removeprefix(PREFIX), *sorted(one.labels.values())): one.value for one in found}

    assert values == {
        ("proxy_client_keys_age_seconds", "1"): 0.5,
        ("proxy_client_key_refusals_total", "1", "path_not_open"): 2.0,
        ("proxy_client_key_limits_alone_total", "1"): 3.0,
    }
    assert list(metrics.key_families([report(0)])) == []


@pytest.mark.parametrize("accept", PARSERS)
@pytest.mark.parametrize("created", [False, True])
def test_every_sample_is_of_a_family_in_the_tables(accept, created):
    """Both formats can be read; each name stands in a table with exactly these labels, and each table's row is shown."""
    _, found = samples(accept, shown(created=created))
    names = {table_name(sample) for sample in found}

    assert names == set(TABLES)
    assert {sample.name[: len(PREFIX)] for sample in found} == {PREFIX}
    for sample in found:
        assert set(TABLES[table_name(sample)]) == set(sample.labels) - {"le"}


@pytest.mark.parametrize("accept", PARSERS)
def test_no_series_is_shown_twice(accept):
    """A name and its labels are one series."""
    _, found = samples(accept, shown())
    series = [(sample.name, *sorted(sample.labels.items())) for sample in found]

    assert len(series) == len(set(series))


@pytest.mark.parametrize(
    ("accept", "content"), [("text/plain", "text/plain"), (OPENMETRICS, "application/openmetrics-text")]
)
def test_the_format_is_the_one_asked_for(accept, content):
    """Classic text, or OpenMetrics."""
    assert samples(accept, shown())[0].startswith(content)


def test_created_samples_are_a_choice():
    """Since when a counter has been there is told only where it is wanted, and only in OpenMetrics."""
    with_them = {sample.name for sample in samples(OPENMETRICS, shown(created=True))[1]}
    without = {sample.name for sample in samples(OPENMETRICS, shown())[1]}

    assert f"{PREFIX}tokens_created" in with_them
    assert not [name for name in without if name.endswith("_created")]


@pytest.mark.parametrize("accept", PARSERS)
def test_labels_come_back_as_they_were(accept):
    """Quotes, backslashes, line ends and any script survive the way to Prometheus."""
    _, found = samples(accept, shown())

    assert ODD in {sample.labels.get("app") for sample in found}
    assert ODD in {sample.labels.get("model") for sample in found}


def values(name, families):
    """The values of one metric by its labels, in the order of the table."""
    labels = TABLES[name]
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for sample in samples("text/plain", families)[1]
        if sample.name == PREFIX + name
    }


def test_a_version_was_seen_first_and_last():
    """Over all names and fingerprints it was seen under."""
    families = list(metrics.sighting_families(SIGHTINGS))

    assert values("version_first_seen_timestamp_seconds", families) == {("V",): 50.0}
    assert values("version_last_seen_timestamp_seconds", families) == {("V",): 200.25}
    assert values("version_info", families) == {("V", "m", "f1", "alias"): 1.0, ("V", "m", "f2", "fingerprint"): 1.0}


@pytest.mark.parametrize(("at_s", "band"), [(NOW_S, "peak"), (NOW_S + 9 * 3600, "off_peak")])
def test_prices_in_force_and_their_band(at_s, band):
    """Each version in force has a price per kind and band, and exactly one band is active."""
    families = list(metrics.price_families(builtin_catalog(), places(builtin_catalog(), at_s), at_s))
    active = values("price_band_active", families)
    prices = values("price_usd_per_million_tokens", families)
    flash = {key[2:]: value for key, value in prices.items() if key[1] == "DeepSeek-V4.1-Flash-1017"}

    assert {("input_cache_miss", "peak"): 0.3, ("input_cache_miss", "off_peak"): 0.15}.items() <= flash.items()
    for version in {key[1] for key in active}:
        assert sum(value for key, value in active.items() if key[1] == version) == 1.0
    assert active["default", "DeepSeek-V4.1-Flash-1017", band] == 1.0


def test_processes_are_shown_by_their_slot():
    """What each worker says of itself, and the overhead and restarts of all."""
    families = list(metrics.process_families([report(0), report(3, faults={})], ([1, 2, *[0] * 10], 0.5), 3, None))

    assert values("proxy_in_flight_requests", families) == {("0",): 2.0, ("3",): 2.0}
    assert values("proxy_metering_faults_total", families) == {("0", "feed"): 4.0}
    assert values("proxy_worker_restarts_total", families) == {(): 3.0}
    assert values("proxy_clock_offset_seconds", families) == {}
    buckets = [
        sample for sample in samples("text/plain", families)[1] if sample.name.endswith("overhead_seconds_bucket")
    ]
    assert [1.0, *[3.0] * 11] == [sample.value for sample in buckets]
    assert (buckets[-1].labels["le"], len(buckets)) == ("+Inf", 12)


def console(store):
    workers = Workers()
    workers.take(report(0), 10**12)
    upstreams = Upstreams({"default": Seller("default")}, {})
    return Console(Settings(), store, builtin_catalog, workers, upstreams=upstreams, wall_s=lambda: NOW_S)


def test_without_the_store_the_global_families_are_left_out():
    """They are not shown as zero: what is unknown is absent. `store_up`, prices and processes stay."""

    async def away(*_arguments):
        raise StoreUnavailableError("away")

    async def work():
        return await console(SimpleNamespace(snapshot=away, clock_offset_s=away))._families()

    families = asyncio.run(work())
    names = {table_name(sample) for sample in samples("text/plain", families)[1]}

    assert values("store_up", families) == {(): 0.0}
    assert not names & (
        set(FAMILIES) | {"spend_usd", "version_info", "store_epoch", "store_snapshot_timestamp_seconds"}
    )
    assert {"price_band_active", "proxy_in_flight_requests"} <= names


def test_with_the_store_they_are_all_there():
    """Every family of the store is shown, those of versions in force from 0."""

    async def answers(*_arguments):
        return snapshot(fold("j", 1, RECORDS, Retention()).additions[0].fields)

    async def no_offset(*_arguments):
        return 0.0

    async def work():
        return await console(SimpleNamespace(snapshot=answers, clock_offset_s=no_offset))._families()

    families = asyncio.run(work())

    assert values("store_up", families) == {(): 1.0}
    assert {f"{PREFIX}{name.removesuffix('_total')}" for name in FAMILIES} <= {family.name for family in families}
    assert (
        values("tokens_total", families)[
            "default", "DeepSeek-V4.1-Flash-1017", "deepseek-flash", "input_cache_hit", "reported"
        ]
        == 0
    )
