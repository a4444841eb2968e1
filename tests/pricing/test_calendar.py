from datetime import date, timedelta

import chinese_calendar
import pytest
from pricing.given import at

from proxy.pricing.calendar import holiday, official_holidays, shanghai_day

WEEKDAY_HOLIDAYS_2026 = [
    "2026-01-01 2026-01-02",
    "2026-02-16 2026-02-17 2026-02-18 2026-02-19 2026-02-20 2026-02-23",
    "2026-04-06",
    "2026-05-01 2026-05-04 2026-05-05",
    "2026-06-19",
    "2026-09-25",
    "2026-10-01 2026-10-02 2026-10-05 2026-10-06 2026-10-07",
]
MAKE_UP_DAYS_2026 = ["2026-01-04", "2026-02-14", "2026-02-28", "2026-05-09", "2026-09-20", "2026-10-10"]


def test_the_weekday_holidays_of_2026_are_those_published():
    """No weekday more and none less than the State Council announced for 2026 is a holiday."""
    days = (date(2026, 1, 1) + timedelta(days=number) for number in range(365))
    found = [day.isoformat() for day in days if day.weekday() < 5 and holiday(day, official_holidays())]

    assert " ".join(WEEKDAY_HOLIDAYS_2026).split() == found


@pytest.mark.parametrize("day", MAKE_UP_DAYS_2026)
def test_a_make_up_day_is_no_holiday(day):
    """A weekend day worked in place of a holiday is on no list of holidays; the weekday rule keeps it off-peak."""
    make_up = date.fromisoformat(day)

    assert holiday(make_up, official_holidays()) is False
    assert make_up.weekday() > 4


def test_a_year_without_data_is_unknown():
    """The year behind the last published one has no answer, on New Year's Day either."""
    unpublished = max(official_holidays()) + 1

    assert holiday(date(unpublished, 1, 1), official_holidays()) is None
    assert holiday(date(unpublished, 3, 3)) is None


def test_the_operators_calendar_goes_first():
    """A calendar handed in decides its own years, also against the official list, and no others."""
    own = {2026: frozenset({date(2026, 3, 3)}), 2050: frozenset({date(2050, 1, 3)})}
    calendars = (own, official_holidays())

    assert [holiday(date(2026, 3, 3), *calendars), holiday(date(2026, 10, 1), *calendars)] == [True, False]
    assert [holiday(date(2050, 1, 3), *calendars), holiday(date(2050, 1, 4), *calendars)] == [True, False]
    assert holiday(date(2025, 10, 1), *calendars) is True


def test_a_stray_day_does_not_make_a_year_look_published(monkeypatch):
    """A New Year's Day announced with the year before leaves its own year without data."""
    monkeypatch.setitem(chinese_calendar.holidays, date(2051, 1, 1), "New Year's Day")

    assert holiday(date(2051, 1, 1), official_holidays()) is None


def test_the_day_begins_at_four_in_the_afternoon_utc():
    """Asia/Shanghai is eight hours ahead, all year."""
    assert date(2026, 8, 22) == shanghai_day(at("2026-08-22T15:59:59Z"))
    assert date(2026, 8, 23) == shanghai_day(at("2026-08-22T16:00:00Z"))
    assert date(2027, 1, 1) == shanghai_day(at("2026-12-31T16:00:00Z"))
