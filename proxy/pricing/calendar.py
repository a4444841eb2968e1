"""Which day it is in China, and whether the State Council made it a public holiday.

The only module that knows `chinese_calendar` (distribution `chinesecalendar`). It is used because it carries only what
was officially published, one year at a time, and has nothing for a year without an announcement. Libraries that compute
holidays ahead (such as `holidays`) guess next year's bridging days, and a guess here would be a silently wrong price.
An operator's own calendar of a year, handed in, goes before the official one.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta, timezone
from typing import Final

import chinese_calendar

HolidayCalendar = Mapping[int, frozenset[date]]
"""Public holidays per year, in dates of Asia/Shanghai. A year that is not a key is a year without data."""

# Asia/Shanghai has had no summer time since 1991; a fixed offset needs no zone file from the disk.
SHANGHAI: Final = timezone(timedelta(hours=8), "Asia/Shanghai")


def shanghai_day(at_s: float) -> date:
    """The date of an instant (seconds since the epoch) in Asia/Shanghai."""
    return datetime.fromtimestamp(at_s, SHANGHAI).date()


def official_holidays() -> HolidayCalendar:
    """Every published year with its holidays. Costs a millisecond: made once, with the catalog."""
    published: dict[int, set[date]] = {}
    for day in chinese_calendar.holidays:
        published.setdefault(day.year, set()).add(day)
    # A year counts from its National Day on: a New Year's Eve announced with the next year's list, or the reverse,
    # must not make a year look published.
    return {year: frozenset(days) for year, days in published.items() if date(year, 10, 1) in days}


def holiday(day: date, *calendars: HolidayCalendar) -> bool | None:
    """Whether a date is a public holiday, from the first calendar that has its year; None: no calendar has it.

    A make-up working weekend is no holiday, and no working day either where the tariff is concerned: the price page
    counts weekdays, so its Saturdays and Sundays stay off-peak.
    """
    for calendar in calendars:
        days = calendar.get(day.year)
        if days is not None:
            return day in days
    return None
