"""What a report says is what one gets by adding the records up by hand: on a real Redis, by every grouping, over any interval."""

import itertools
import time
from collections import Counter
from datetime import UTC as DATETIME_UTC
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ledger.given import Shelf, record, records
from reports.given import UTC, added, figures_of, keep, made, settings_of, told

from proxy.console.spend import hashes_needed, spend_usd
from proxy.errors import MeterError
from proxy.ledger.families import NANO
from proxy.ledger.tally import DAY_S, HOUR_S, Retention, fold, rollup_hash
from proxy.pricing.fixed import fixed_costs
from proxy.reports.figures import measured, summed
from proxy.reports.interval import end_of_minute
from proxy.reports.report import GROUPS
from proxy.usage import CURRENCIES, Band, Charge, Source, TokenUsage

numbers = itertools.count(1)
ZONES = ["UTC", "Asia/Shanghai", "Asia/Kathmandu", "Europe/Berlin", "Pacific/Chatham"]
FOR_GOOD = Retention(10**4 * HOUR_S, 10**4 * DAY_S)
GROUPINGS = [*((name,) for name in GROUPS), ("version", "kind"), ("day", "app"), ("hour", "purpose", "version"), GROUPS]


def at_age(one, age_s, now_s):
    return msgspec.structs.replace(one, pricing_instant_s=now_s - age_s, end_s=now_s - age_s)


aged = st.tuples(records, st.floats(0, 47.9 * HOUR_S))


@settings(max_examples=60)
@given(
    drawn=st.lists(aged, max_size=10),
    edges=st.lists(st.integers(0, 48 * 60), min_size=2, max_size=2, unique=True),
    by=st.sampled_from(GROUPINGS),
    zone=st.sampled_from(ZONES),
    near=st.booleans(),
)
def test_a_report_is_the_sum_of_the_records_in_its_interval(server, client, drawn, edges, by, zone, near):  # noqa: PLR0917 - fixtures, and what is drawn
    """To the token and the nano-unit, in the days and hours of any zone; and the rows add up to the total."""
    shelf, now_s, place = Shelf(server.url, client, f"property{next(numbers)}"), time.time(), ZoneInfo(zone)
    found = [at_age(one, age_s, now_s) for one, age_s in drawn]
    end_s = end_of_minute(now_s)
    since_s, until_s = end_s - 60 * max(edges), end_s - 60 * min(edges)
    if near and found:  # an edge at the minute of a record
        since_s = min(int(found[0].pricing_instant_s) // 60 * 60, until_s - 60)
    keep(shelf, found)
    since, until = (datetime.fromtimestamp(edge, DATETIME_UTC).isoformat() for edge in (since_s, until_s))
    report = made(settings_of(shelf), now_s, since=since, until=until, by=by, zone=place)

    assert report.notes == ()
    assert told(report) == added(found, since_s, until_s, by, place)
    assert figures_of(report.total) == added(found, since_s, until_s, ()).get((), Counter())
    rows = sum((figures_of(row) for row in report.rows), Counter())
    rows["requests"] = rows["requests"] if "kind" not in by else figures_of(report.total)["requests"]
    assert +rows == figures_of(report.total)


@settings(max_examples=15)
@given(
    drawn=st.lists(st.tuples(records, st.floats(0, 40 * DAY_S)), max_size=8),
    zone=st.sampled_from([*ZONES, "America/Santiago", "Australia/Lord_Howe"]),
    since=st.sampled_from(["today", "month"]),
)
def test_today_and_the_month_are_the_gauge_to_the_nano_dollar(server, client, drawn, zone, since):
    """`spend_usd` is told from quarters of an hour, the report from rollups: they agree by version."""
    shelf, now_s, place = Shelf(server.url, client, f"gauge{next(numbers)}"), time.time(), ZoneInfo(zone)
    keep(shelf, [at_age(one, age_s, now_s) for one, age_s in drawn], retention=FOR_GOOD)
    hashes = [shelf.hash(name) for name in hashes_needed(now_s, place)]
    gauge = spend_usd(hashes, now_s, place)
    whole = settings_of(shelf, minutes_kept_h=10**4, hours_kept_d=10**4)
    report = made(whole, now_s, since=since, zone=place)
    by_version = {row.group["version"]: row.figures.all().cost("USD") or 0 for row in report.rows}

    assert {version: nanos / NANO for version, nanos in by_version.items() if nanos} == {
        version: dollars for (version, window), dollars in gauge.items() if window == since and dollars
    }


def test_whole_months_and_years_are_told_from_days(shelf):
    """Month ends, a leap day and a new year: what lies a second before an edge is on the other side of it."""
    instants = ["2024-02-28T23:59:59Z", "2024-02-29T00:00:00Z", "2024-02-29T23:59:59Z", "2024-03-01T00:00:00Z"]
    instants += ["2024-12-31T23:59:59Z", "2025-01-01T00:00:00Z"]
    seconds = [datetime.fromisoformat(text).timestamp() for text in instants]
    found = [record(10**number, pricing_instant_s=at) for number, at in enumerate(seconds)]
    keep(shelf, found)
    now_s = time.time()

    def hits(since, until):
        total = made(settings_of(shelf), now_s, since=since, until=until).total
        return total.figures.all().tokens[0]

    assert hits("2024-02-01", "2024-03-01") == 111
    assert hits("2024-02-29", "2024-03-01") == 110
    assert hits("2024-03-01", "2025-01-01") == 11000
    assert hits("2024-01-01", "2026-01-01") == 111111


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25)])
def test_a_day_on_which_clocks_change_has_all_its_hours(shelf, day, hours):
    """One record in each quarter of an hour around it: 92 or 100 of them are that day's."""
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime.fromisoformat(day).replace(tzinfo=berlin)
    first = start.timestamp() - 2 * HOUR_S
    found = [record(1, exchange_id=f"x{n}", pricing_instant_s=first + 900 * n) for n in range(4 * 30)]
    keep(shelf, found, retention=FOR_GOOD)
    whole = settings_of(shelf, minutes_kept_h=10**4, hours_kept_d=10**4)
    end = (start + timedelta(days=1)).isoformat()
    report = made(whole, time.time(), since=start.isoformat(), until=end, by=("day",), zone=berlin)

    assert {key: row["requests"] for key, row in told(report).items()} == {(day,): 4 * hours}
    by_hour = made(whole, time.time(), since=start.isoformat(), until=end, by=("hour",), zone=berlin)
    assert [row.requests for row in by_hour.rows] == [4] * hours


def test_beyond_the_minutes_an_edge_is_moved_and_the_sum_is_that_of_the_interval_named(shelf):
    """A week ago, in the middle of an hour: whole hours, and the report says which."""
    now_s = time.time()
    hour_s = int(now_s - 7 * DAY_S) // HOUR_S * HOUR_S
    keep(shelf, [record(10**n, pricing_instant_s=hour_s + n * 1200.0) for n in range(6)])
    since = datetime.fromtimestamp(hour_s + 600, DATETIME_UTC).isoformat()
    until = datetime.fromtimestamp(hour_s + 5400, DATETIME_UTC).isoformat()
    report = made(settings_of(shelf), now_s, since=since, until=until)

    assert (report.since_s, report.until_s) == (hour_s, hour_s + 3600)
    assert report.total.figures.all().tokens[0] == 111
    assert [note.split()[0] for note in report.notes] == ["begins", "ends", "there"]


def test_a_longer_retention_does_not_bring_back_what_is_gone(shelf):
    """Minutes kept for two days, then for a month: where they do not add up to their hour, the hour is taken, and that is said."""
    now_s = time.time()
    hour_s = int(now_s - 5 * DAY_S) // HOUR_S * HOUR_S
    keep(shelf, [record(5, pricing_instant_s=hour_s + 60.0), record(7, pricing_instant_s=hour_s + 3000.0)])
    since = datetime.fromtimestamp(hour_s + 1500, DATETIME_UTC).isoformat()
    longer = settings_of(shelf, minutes_kept_h=24 * 30)
    report = made(longer, now_s, since=since, until="now")

    assert shelf.client.exists(shelf.key(rollup_hash("minute", hour_s + 3000))) == 0
    assert report.since_s == hour_s
    assert report.total.figures.all().tokens[0] == 12
    assert "begins at" in report.notes[0]


def test_a_part_that_is_more_than_its_whole_is_no_report():
    """Somebody wrote into a rollup, where nothing else would tell; what cancels out leaves nothing behind."""
    fields = {name.encode(): value for name, value in fold("j", 1, [record(5)], FOR_GOOD).additions[1].fields.items()}

    assert summed([(fields, 1), (fields, -1)]) == {}
    with pytest.raises(MeterError, match="do not agree"):
        summed([(fields, 1), (fields, -2)])


def test_a_measure_of_a_later_release_is_left_out():
    """A rollup may come to say more; what this release knows of it stays right."""
    known = {name.encode(): value for name, value in fold("j", 1, [record(5)], FOR_GOOD).additions[1].fields.items()}
    head = next(name for name in known if name.endswith(b"]n"))[:-1]
    ((_, one),) = measured(known)
    ((_, more),) = measured({**known, head + b"USDu": 7, head + b"EUR0": 7, head + b"t4": 7})

    assert (one.requests, one.lists()) == (more.requests, more.lists())


def test_a_token_without_a_price_is_unpriced_and_never_nothing(shelf):
    """A group of such tokens alone has no cost; beside others they are counted; an exchange without tokens cost 0."""
    now_s = time.time()
    keep(
        shelf,
        [
            record(5, version="bare", charges=(), pricing_instant_s=now_s),
            record(6, version="mixed", pricing_instant_s=now_s),
            record(7, version="mixed", charges=(), pricing_instant_s=now_s),
            record(8, version="failed", usage=None, charges=(), source=Source.NONE, pricing_instant_s=now_s),
            record(
                9, version="dollars", charges=(Charge("USD", "p", Band.FLAT, (0, 0, 0, 0)),), pricing_instant_s=now_s
            ),
        ],
    )
    rows = {row.group["version"]: row.figures.all() for row in made(settings_of(shelf), now_s).rows}

    assert {name: [row.cost(currency) for currency in CURRENCIES] for name, row in rows.items()} == {
        "bare": [None, None],
        "mixed": [30, 8],
        "failed": [0, 0],
        "dollars": [0, None],
    }
    assert rows["mixed"].count_unpriced("USD") == TokenUsage(7, 14, 3, 4).total
    assert rows["mixed"].cost("USD", (2,)) == 0


FIXED = """
[versions.V.fixed]
gpu = { usd_per_hour = 1.5 }
[versions.W.fixed]
storage = { usd_per_month = 73 }
"""


@pytest.mark.parametrize("by", [("version",), ("day",), ("version", "day"), ("hour", "version")])
def test_what_a_version_costs_by_the_clock_stands_beside_and_adds_up(shelf, by):
    """A row for each version and day, also where nobody asked; the sum is the cost of the whole interval, until now."""
    now_s = time.time()
    keep(shelf, [record(5, pricing_instant_s=now_s - 60)])
    configured = settings_of(shelf, more=FIXED)
    report = made(configured, now_s, since="30h", by=by)
    since_s = end_of_minute(now_s) - 30 * HOUR_S
    whole = sum(cost.nanos_between(since_s, now_s, UTC) for cost in fixed_costs(configured))

    assert sum(row.fixed_nanos for row in report.rows) == report.total.fixed_nanos == whole
    assert report.total.figures.all().cost("USD") == 29
    if by == ("version",):
        (v,) = (cost.nanos_between(since_s, now_s, UTC) for cost in fixed_costs(configured) if cost.version == "V")
        assert {row.group["version"]: (row.requests, row.fixed_nanos) for row in report.rows} == {
            "V": (1, v),
            "W": (0, whole - v),
        }
    assert "fixed costs: in US dollars" in report.notes[0]


@pytest.mark.parametrize("by", [("app",), ("version", "kind"), ("model", "day")])
def test_by_anything_else_it_stands_in_the_total_alone(shelf, by):
    """Nobody can say which app's the GPU was; and the report says that it does not."""
    now_s = time.time()
    keep(shelf, [record(5, pricing_instant_s=now_s - 60)])
    report = made(settings_of(shelf, more=FIXED), now_s, by=by)

    assert {row.fixed_nanos for row in report.rows} == {None}
    assert report.total.fixed_nanos > 35 * NANO
    assert "stand in the total alone" in report.notes[0]


def test_rows_stand_in_the_order_of_what_was_asked(shelf):
    """Names by the alphabet, time by time, kinds as everywhere."""
    now_s = time.time()
    keep(shelf, [record(n, app=app, pricing_instant_s=now_s - 60) for n, app in enumerate("bac", 1)])
    report = made(settings_of(shelf), now_s, by=("app", "kind"))
    kinds = ["input_cache_hit", "input_cache_miss", "output_reasoning", "output_answer"]

    assert [(row.group["app"], row.group["kind"]) for row in report.rows] == list(itertools.product("abc", kinds))
