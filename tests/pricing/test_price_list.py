"""The shipped prices against the list of facts beside the project, row by row, to the second. Through the command line's own row."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from pricing.given import at

from proxy.cli import main
from proxy.pricing.calendar import official_holidays
from proxy.pricing.tariff import rate_at
from proxy.pricing.versions import resolve

FILE = Path(__file__).parents[3] / "shared/deepseek_prices.json"
ROWS = json.loads(FILE.read_text("utf-8")) if FILE.exists() else []
KINDS = {"input_cache_hit": "input_cache_hit", "input_cache_miss": "input_cache_miss", "output": "output_answer"}
SECOND = timedelta(seconds=1)
PEAK_2026 = ((1, 4), (6, 10))


def instants(row):
    """Both edges of a row, just inside, and every edge of its windows on some days of each kind."""
    begin = datetime.fromisoformat(row["valid_from"])
    end = datetime.fromisoformat(row["valid_to"]) if row["valid_to"] else datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)
    days = [
        begin + timedelta(days=number) for number in range(0, (end - begin).days + 1, max((end - begin).days // 24, 1))
    ]
    edges = [begin, begin + SECOND, end - SECOND, end - 2 * SECOND]
    for day in days:
        midnight = day.replace(hour=0, minute=0, second=0)
        for minutes in (0, 30, 60, 240, 360, 600, 990, 720, 1439):
            edges += [midnight + timedelta(minutes=minutes) - SECOND, midnight + timedelta(minutes=minutes)]
    return sorted({edge for edge in edges if begin <= edge < end})


def expected(row, instant):
    """What the list says of an instant: the kinds it prices, and the band."""
    off_peak = row["off_peak"]
    prices = row["per_million"]
    if off_peak is None:
        return prices, "flat"
    if off_peak["scheme"] == "offpeak_2025":
        minute = instant.hour * 60 + instant.minute
        lower, band = (True, "off_peak") if minute >= 990 or minute < 30 else (False, "peak")
    else:
        lower = not is_peak_2026(off_peak, instant)
        band = "off_peak" if lower else "peak"
    if not lower:
        return prices, band
    printed = off_peak.get("per_million")
    return printed or {kind: price * off_peak["multipliers"][kind] for kind, price in prices.items()}, band


def is_peak_2026(off_peak, instant):
    if not any(start <= instant.hour < end for start, end in PEAK_2026):
        return False
    if instant < datetime(2026, 8, 22, 16, tzinfo=UTC):
        return True
    beijing = (instant + timedelta(hours=8)).date()
    if beijing.weekday() >= 5:
        return False
    free = (
        instant >= datetime(2026, 9, 18, tzinfo=UTC)
        and beijing.isoformat() in off_peak["cn_holidays_2026_after_start_weekdays"]
    )
    return not free


@pytest.mark.parametrize(
    "row", ROWS, ids=[f"{row['currency']} {row['model_version'][:40]} {row['valid_from'][:10]}" for row in ROWS]
)
def test_a_row_of_the_list_is_what_the_catalog_charges(catalog, row):
    """Under every name of the row, at both its edges and those of its windows: price, band, kinds."""
    checked = 0
    for name in row["aliases"]:
        until = row.get("alias_valid_to", {}).get(name)
        for instant in instants(row):
            if until and instant >= datetime.fromisoformat(until):
                continue
            version = resolve(
                catalog, upstream="default", requested=name, served="", fingerprint="", at_s=instant.timestamp()
            )
            if version.version not in catalog.versions:
                assert row["confidence"] == "low" or name == "deepseek-coder", (name, instant)
                continue
            rate = rate_at(catalog, version.version, row["currency"], instant.timestamp(), model=name)
            prices, band = expected(row, instant)
            for kind, price in prices.items():
                want = prices["input_cache_miss"] if price is None else price
                got = (
                    Decimal(rate.nanos_per_million[("input_cache_hit", "input_cache_miss", "output").index(kind)])
                    / 10**9
                )
                assert float(got) == pytest.approx(want, rel=1e-9), (name, instant, kind)
            assert rate.band == band, (name, instant)
            checked += 1

    assert checked >= 20


@pytest.mark.parametrize("day", sorted(day for day in official_holidays()[2026]))
def test_each_holiday_of_2026_is_off_peak_from_the_day_the_rule_was_seen(day, catalog):
    """In the middle of a peak window: off-peak on the day, and on the working days around it peak."""
    noon = datetime(day.year, day.month, day.day, 2, 0, tzinfo=UTC).timestamp()
    rate = rate_at(catalog, "DeepSeek-V4-Pro-0813", "USD", noon)
    if noon < at("2026-08-16T16:00:00Z"):
        assert rate is None or rate.band == "flat"
    elif noon >= at("2026-09-18T00:00:00Z"):
        assert rate.band == "off_peak"


@pytest.mark.parametrize(
    ("instant", "band"),
    [
        ("2026-09-24T02:00:00Z", "peak"),
        ("2026-09-25T02:00:00Z", "off_peak"),
        ("2026-10-08T02:00:00Z", "peak"),
        ("2026-10-10T02:00:00Z", "off_peak"),
        ("2026-11-23T00:59:59Z", "off_peak"),
        ("2026-11-23T01:00:00Z", "peak"),
        ("2026-11-23T03:59:59Z", "peak"),
        ("2026-11-23T04:00:00Z", "off_peak"),
        ("2026-11-23T05:59:59Z", "off_peak"),
        ("2026-11-23T06:00:00Z", "peak"),
        ("2026-11-23T09:59:59Z", "peak"),
        ("2026-11-23T10:00:00Z", "off_peak"),
        ("2027-03-01T02:00:00Z", "unknown"),
        ("2027-03-01T05:00:00Z", "off_peak"),
        ("2027-03-06T02:00:00Z", "off_peak"),
        ("2025-06-01T16:29:59Z", "peak"),
        ("2025-06-01T16:30:00Z", "off_peak"),
        ("2025-06-01T00:29:59Z", "off_peak"),
        ("2025-06-01T00:30:00Z", "peak"),
        ("2024-06-01T00:30:00Z", "flat"),
    ],
)
def test_the_command_says_which_band(instant, band):
    """Windows, weekends, a holiday, a make-up Saturday, a year without a calendar; by the name of the time."""
    name = "deepseek-v4-pro" if instant >= "2026-08" else "deepseek-chat"
    result = CliRunner().invoke(main, ["prices", "--at", instant, "--model", name, "--format", "json"])

    assert (result.exit_code, json.loads(result.output)["band"]) == (0, band)


def test_the_command_tells_the_prices_of_2025_by_name():
    """One version, two prices: the name that was asked for decides."""
    found = {}
    for name in ("deepseek-chat", "deepseek-reasoner"):
        result = CliRunner().invoke(
            main, ["prices", "--at", "2025-09-01T12:00:00Z", "--model", name, "--format", "json"]
        )
        found[name] = json.loads(result.output)

    assert {row["version"] for row in found.values()} == {"DeepSeek-V3.1"}
    assert [row["per_million_tokens"]["output_answer"] for row in found.values()] == ["1.1", "2.19"]
