"""Which rollups make up an interval: every minute once, none that has expired, and what could not be told is said."""

from collections import Counter
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import MeterError
from proxy.ledger.tally import DAY_S, HOUR_S, Retention
from proxy.reports.cover import WIDTHS, Bucket, Kept, cover, instant, kept_at
from proxy.reports.interval import Period, periods

NOW_S = datetime.fromisoformat("2026-11-23T02:00:30Z").timestamp()
KEPT = kept_at(NOW_S, Retention())
UTC, SHANGHAI, KATHMANDU = ZoneInfo("UTC"), ZoneInfo("Asia/Shanghai"), ZoneInfo("Asia/Kathmandu")
ALL = Kept(0, 0)


def at(text):
    return datetime.fromisoformat(text).timestamp()


def minutes_of(weights):
    """How often each minute counts."""
    counted = Counter()
    for bucket, weight in weights.items():
        for minute in range(bucket.start_s, bucket.start_s + WIDTHS[bucket.granularity], 60):
            counted[minute] += weight
    return {minute: count for minute, count in counted.items() if count}


ages = st.integers(0, 60 * 24 * 40)


@given(
    ages=st.lists(ages, min_size=2, max_size=2, unique=True),
    by=st.sampled_from([(), ("day",), ("hour",)]),
    zone=st.sampled_from([UTC, SHANGHAI, KATHMANDU, ZoneInfo("Europe/Berlin")]),
    retention=st.builds(
        Retention, st.integers(1, 72).map(lambda h: h * HOUR_S), st.integers(3, 60).map(lambda d: d * DAY_S)
    ),
)
def test_every_minute_of_a_period_counts_once_and_no_other_does(ages, by, zone, retention):
    """Whatever is kept: from rollups that are there, and in periods that follow on one another."""
    end_s = int(NOW_S) // 60 * 60 + 60
    wanted = periods(Period(end_s - 60 * max(ages), end_s - 60 * min(ages)), by, zone)
    try:
        found = cover(wanted, kept_at(NOW_S, retention))
    except MeterError:
        assert "hour" in by
        assert end_s - 60 * max(ages) < NOW_S - retention.hours_s
        return

    for period, weights in zip(found.periods, found.weights, strict=True):
        expected = dict.fromkeys(range(int(period.since_s), int(period.until_s), 60), 1)
        assert minutes_of(weights) == expected
        for bucket in weights:
            kept_s = {"minute": retention.minutes_s, "hour": retention.hours_s, "day": 10**9}[bucket.granularity]
            assert bucket.start_s + WIDTHS[bucket.granularity] + kept_s > NOW_S
    for before, after in zip(found.periods, found.periods[1:], strict=False):
        assert before.until_s == after.since_s


@given(ages=st.lists(ages, min_size=2, max_size=2, unique=True))
def test_an_edge_that_is_moved_is_said_and_one_that_is_not_is_not(ages):
    """No note means: exactly what was asked for."""
    end_s = int(NOW_S) // 60 * 60 + 60
    wanted = Period(end_s - 60 * max(ages), end_s - 60 * min(ages))
    found = cover([wanted], KEPT)

    assert (found.periods == (wanted,)) == (found.notes == ())
    for edge in ("since_s", "until_s"):
        asked, told = getattr(wanted, edge), getattr(found.periods[0], edge)
        assert (asked != told) == any(f"{instant(told)}, not at {instant(asked)}" in note for note in found.notes)


@pytest.mark.parametrize(
    ("since", "until", "told"),
    [
        ("2026-11-22T10:31Z", "2026-11-22T10:32Z", "2026-11-22T10:31Z 2026-11-22T10:32Z"),
        ("2026-11-21T02:01Z", "2026-11-22T10:32Z", "2026-11-21T02:01Z 2026-11-22T10:32Z"),  # 48 h ago
        ("2026-11-21T01:31Z", "2026-11-22T10:32Z", "2026-11-21T02:00Z 2026-11-22T10:32Z"),
        ("2026-11-19T10:30Z", "2026-11-22T00:00Z", "2026-11-19T10:00Z 2026-11-22T00:00Z"),
        ("2026-11-19T10:31Z", "2026-11-19T12:00Z", "2026-11-19T11:00Z 2026-11-19T12:00Z"),
        ("2026-11-19T10:31Z", "2026-11-19T10:50Z", "2026-11-19T10:00Z 2026-11-19T11:00Z"),  # never nothing
        ("2026-10-19T02:01Z", "2026-11-01T00:00Z", "2026-10-19T02:00Z 2026-11-01T00:00Z"),  # 35 d ago
        ("2026-10-19T00:01Z", "2026-11-01T00:00Z", "2026-10-19T00:00Z 2026-11-01T00:00Z"),
        ("2026-10-18T12:01Z", "2026-11-01T00:00Z", "2026-10-19T00:00Z 2026-11-01T00:00Z"),
        ("2026-10-18T12:01Z", "2026-10-18T13:00Z", "2026-10-18T00:00Z 2026-10-19T00:00Z"),
        ("2026-11-22T10:31:20Z", "2026-11-22T10:31:40Z", "2026-11-22T10:31Z 2026-11-22T10:32Z"),  # seconds
    ],
)
def test_an_edge_beyond_what_is_kept_goes_to_the_nearest_that_can_be_told(since, until, told):
    """Outwards only where nothing would be left between the two."""
    period = cover([Period(at(since), at(until))], KEPT).periods[0]

    assert [at(text) for text in told.split()] == [period.since_s, period.until_s]


def test_an_edge_that_is_moved_does_not_pass_one_that_is_not():
    """Just where minutes begin to be kept: 02:39 would go to 03:00, behind an end at 02:45."""
    kept = kept_at(at("2026-11-23T02:40:30Z"), Retention())
    (period,) = cover([Period(at("2026-11-21T02:39Z"), at("2026-11-21T02:45Z"))], kept).periods

    assert period == Period(at("2026-11-21T02:00Z"), at("2026-11-21T02:45Z"))


def test_few_rollups_tell_a_long_time():
    """Whole days from days: three months and a bit are a hundred and some hashes, not a hundred thousand."""
    found = cover([Period(at("2026-08-01T00:00Z"), at("2026-11-22T10:31Z"))], KEPT)

    assert sum(len(day) for day in found.by_day()) < 114 + 60 + 24 + 60 + 24
    assert all(len({bucket.start_s // DAY_S for bucket in day}) == 1 for day in found.by_day())


def test_days_of_a_zone_are_told_from_hours_and_beyond_them_from_utc_days():
    """In Shanghai; the day keeps its name, and a note says where that was."""
    found = cover(periods(Period(at("2026-10-01T00:00+08:00"), at("2026-11-01T00:00+08:00")), ("day",), SHANGHAI), KEPT)
    by_day = {one.day: (instant(one.since_s), instant(one.until_s)) for one in found.periods}

    assert len(by_day) == 31
    assert by_day["2026-10-01"] == ("2026-10-01T00:00:00Z", "2026-10-02T00:00:00Z")
    assert by_day["2026-10-20"] == ("2026-10-19T16:00:00Z", "2026-10-20T16:00:00Z")
    assert "days until 2026-10-18T16:00:00Z begin where it can be told, e.g. at 2026-10-19T00:00:00Z" in found.notes[1]


def test_days_at_a_quarter_to_are_exact_while_there_are_minutes():
    """In Kathmandu a day begins at 18:15 UTC."""
    found = cover(periods(Period(at("2026-11-20T00:00Z"), at("2026-11-23T00:00Z")), ("day",), KATHMANDU), KEPT)

    assert [instant(one.since_s)[11:16] for one in found.periods] == ["00:00", "18:00", "18:15", "18:15"]
    assert "e.g. at 2026-11-20T18:00:00Z" in found.notes[0]


def test_hours_that_are_not_kept_are_refused():
    """An hour's name on a day's figures would be wrong."""
    asked = Period(at("2026-10-10T00:00Z"), at("2026-11-20T00:00Z"))

    with pytest.raises(
        MeterError, match=r"--by hour: .* from 2026-10-19T02:00:00Z on; give a later --since, or --by day"
    ):
        cover(periods(asked, ("hour",), UTC), KEPT)


def test_a_bucket_is_the_sum_of_its_parts():
    """24 hours a day, 60 minutes an hour."""
    day = Bucket("day", DAY_S * 3)

    assert [len(day.parts), len(day.parts[0].parts), day.parts[0].parts[0].parts] == [24, 60, ()]
    assert day.name == f"rollup:day:{DAY_S * 3}"
