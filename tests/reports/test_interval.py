"""Intervals as they are written, and the days and hours of zones with odd offsets and changing clocks."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.console.spend import windows
from proxy.reports.interval import Period, asked, end_of_minute, periods

NOW_S = datetime.fromisoformat("2026-11-23T02:00:30Z").timestamp()
SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
ZONES = ["UTC", "Asia/Shanghai", "Asia/Kathmandu", "Europe/Berlin", "Australia/Lord_Howe", "America/St_Johns"]


def at(text):
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("24h", "2026-11-22T02:01:00Z"),
        ("7d", "2026-11-16T02:01:00Z"),
        ("2w", "2026-11-09T02:01:00Z"),
        ("90m", "2026-11-23T00:31:00Z"),
        ("today", "2026-11-22T16:00:00Z"),
        ("month", "2026-10-31T16:00:00Z"),
        ("2026-11-20", "2026-11-19T16:00:00Z"),
        ("2026-11-20T08:00", "2026-11-20T00:00:00Z"),
        ("2026-11-20T08:00Z", "2026-11-20T08:00:00Z"),
        ("2026-11-20T08:00+01:00", "2026-11-20T07:00:00Z"),
    ],
)
def test_an_interval_begins_where_it_was_written(written, meant):
    """Spans back from the end of the running minute; days, and instants without a zone, in the configured one."""
    assert asked(written, "now", NOW_S, SHANGHAI) == Period(at(meant), at("2026-11-23T02:01:00Z"))


@pytest.mark.parametrize(
    ("since", "until", "said"),
    [
        ("yesterday", "now", "--since: expected 24h, 7d"),
        ("24h", "24", "--until: expected 24h, 7d"),
        ("9999-12-31T23:59:59-23:59", "now", "--since: expected"),
        ("2026-11-21", "2026-11-21", "before --until (2026-11-21) and before now, got 2026-11-21"),
        ("2026-11-24", "2026-11-25", "before --until (2026-11-25) and before now, got 2026-11-24"),
        ("now", "now", "--since: expected an instant before"),
    ],
)
def test_what_is_no_interval_is_refused(since, until, said):
    """With what was expected."""
    with pytest.raises(ValueError, match="expected") as refused:
        asked(since, until, NOW_S, ZoneInfo("UTC"))

    assert said in str(refused.value)


def test_what_is_to_come_is_not_in_it():
    """An end that lies ahead is now."""
    assert asked("24h", "2027-01-01", NOW_S, BERLIN).until_s == end_of_minute(NOW_S)


@given(now=st.integers(int(at("2026-01-01T00:00Z")), int(at("2027-02-01T00:00Z"))), zone=st.sampled_from(ZONES))
def test_today_and_month_are_those_of_the_gauge(now, zone):
    """Report and `spend_usd` mean the same by them."""
    today, month = windows(now, ZoneInfo(zone))

    assert asked("today", "now", now, ZoneInfo(zone)).since_s == today.start_s
    assert asked("month", "now", now, ZoneInfo(zone)).since_s == month.start_s


@given(
    start=st.integers(int(at("2026-01-01T00:00Z")) // 60, int(at("2027-02-01T00:00Z")) // 60),
    minutes=st.integers(1, 4000),
    zone=st.sampled_from(ZONES),
    by=st.sampled_from(["day", "hour"]),
)
def test_periods_are_the_days_and_hours_of_the_zone(start, minutes, zone, by):
    """They follow on one another from end to end, and every minute of each is of that date and hour there."""
    whole, place = Period(start * 60, (start + minutes) * 60), ZoneInfo(zone)
    found = periods(whole, (by,), place)

    assert [one.until_s for one in found[:-1]] == [one.since_s for one in found[1:]]
    assert (found[0].since_s, found[-1].until_s) == (whole.since_s, whole.until_s)
    assert len({(one.day, one.hour) for one in found}) == len(found)
    for one in found:
        for minute in (one.since_s, one.until_s - 60):
            local = datetime.fromtimestamp(minute, place)
            assert one.day == local.date().isoformat()
            assert one.hour[:13] == (local.isoformat()[:13] if by == "hour" else "")


@pytest.mark.parametrize(("day", "hours"), [("2026-03-29", 23), ("2026-10-25", 25), ("2026-11-23", 24)])
def test_a_day_has_the_hours_its_clocks_have(day, hours):
    """Also where an hour comes twice: its rows differ by their offset."""
    start = datetime.fromisoformat(day).replace(tzinfo=BERLIN)
    whole = Period(start.timestamp(), start.replace(day=start.day + 1).timestamp())

    assert len(periods(whole, ("hour",), BERLIN)) == hours
    assert periods(whole, ("day",), BERLIN) == [Period(*whole[:2], day)]
