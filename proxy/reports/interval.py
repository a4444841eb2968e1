"""What was asked for: from when until when, and the days or hours of a time zone that lie in between. Pure.

Instants are seconds since the epoch. Nothing here knows what the store still has; `cover` does.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from proxy.pricing.fixed import month_around

MINUTE_S: Final = 60
QUARTER_S: Final = 900
"""The finest offset of a time zone: days and hours begin at quarters of an hour, in UTC, everywhere."""

EXPECTED: Final = "24h, 7d, today, month, now, or an instant such as 2026-11-23T02:00:00Z"

_SPAN: Final = re.compile(r"([0-9]{1,6})([mhdw])")
_UNIT_S: Final = {"m": MINUTE_S, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class Period(NamedTuple):
    """From `since_s` (inclusive) until `until_s`, and which day and hour that is, where a report is divided so."""

    since_s: float
    until_s: float
    day: str = ""
    hour: str = ""


def asked(since: str, until: str, now_s: float, zone: ZoneInfo) -> Period:
    """The interval as it was written. Raises ValueError, which says what was expected.

    What is relative counts from the end of the running minute, so that 24h are 24 hours and the last exchange is in them.
    An instant without a zone is one of `zone`. What is still to come is left out.
    """
    since_s = _instant("--since", since, now_s, zone)
    until_s = min(_instant("--until", until, now_s, zone), end_of_minute(now_s))
    if since_s >= until_s:
        raise ValueError(f"--since: expected an instant before --until ({until}) and before now, got {since}")
    return Period(since_s, until_s)


def end_of_minute(now_s: float) -> int:
    """Where the running minute ends: the latest instant that can have been recorded."""
    return int(now_s) // MINUTE_S * MINUTE_S + MINUTE_S


def periods(interval: Period, by: tuple[str, ...], zone: ZoneInfo) -> list[Period]:
    """The interval, divided at the borders of the days or hours of a zone where `by` names them.

    An hour is named with its offset, because one of them comes twice when clocks go back.
    """
    if "hour" in by:
        return _divided(
            interval, lambda at: (at.date().isoformat(), at.replace(minute=0).isoformat("T", "minutes")), zone
        )
    if "day" in by:
        return _divided(interval, lambda at: (at.date().isoformat(), ""), zone)
    return [interval]


def _divided(interval: Period, names: Callable[[datetime], tuple[str, str]], zone: ZoneInfo) -> list[Period]:
    found = []
    start_s = interval.since_s
    while start_s < interval.until_s:
        here = names(datetime.fromtimestamp(start_s, zone))
        end_s = start_s
        while end_s < interval.until_s and names(datetime.fromtimestamp(end_s, zone)) == here:
            end_s = end_s // QUARTER_S * QUARTER_S + QUARTER_S
        found.append(Period(start_s, min(end_s, interval.until_s), *here))
        start_s = end_s
    return found


def _instant(option: str, text: str, now_s: float, zone: ZoneInfo) -> float:
    if text == "now":
        return end_of_minute(now_s)
    if text == "today":
        return (
            datetime.fromtimestamp(now_s, zone).replace(hour=0, minute=0, second=0, microsecond=0, fold=0).timestamp()
        )
    if text == "month":
        return month_around(now_s, zone)[0]
    if span := _SPAN.fullmatch(text):
        return end_of_minute(now_s) - int(span[1]) * _UNIT_S[span[2]]
    return _written(option, text, zone)


def _written(option: str, text: str, zone: ZoneInfo) -> float:
    try:
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=zone)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{option}: expected {EXPECTED}; got {text!r}") from error
