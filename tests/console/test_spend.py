import json
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.console.spend import hashes_needed, spend_usd, windows
from proxy.ledger.tally import SPEND_BUCKET_S, spend_hash

ZONES = ["UTC", "Asia/Shanghai", "Asia/Kathmandu", "Europe/Berlin", "America/New_York", "Pacific/Kiritimati"]
ZONES += ["Pacific/Pago_Pago", "Pacific/Chatham", "Australia/Lord_Howe", "America/Santiago", "America/St_Johns"]


def at(text):
    return datetime.fromisoformat(text).timestamp()


def starts(now, zone):
    """The beginnings of today and of the month, as one writes them in UTC."""
    return [
        f"{datetime.fromtimestamp(window.start_s, ZoneInfo('UTC')):%m-%dT%H:%M}"
        for window in windows(at(now), ZoneInfo(zone))
    ]


@pytest.mark.parametrize(
    ("now", "zone", "today", "month"),
    [
        ("2026-11-23T02:00:00Z", "UTC", "11-23T00:00", "11-01T00:00"),
        ("2026-11-23T15:59:59Z", "Asia/Shanghai", "11-22T16:00", "10-31T16:00"),
        ("2026-11-23T16:00:00Z", "Asia/Shanghai", "11-23T16:00", "10-31T16:00"),
        ("2026-11-23T18:14:59Z", "Asia/Kathmandu", "11-22T18:15", "10-31T18:15"),
        ("2026-11-23T18:15:00Z", "Asia/Kathmandu", "11-23T18:15", "10-31T18:15"),
        ("2026-12-31T23:30:00Z", "Europe/Berlin", "12-31T23:00", "12-31T23:00"),
        ("2026-12-31T22:30:00Z", "Europe/Berlin", "12-30T23:00", "11-30T23:00"),
        ("2026-03-29T12:00:00Z", "Europe/Berlin", "03-28T23:00", "02-28T23:00"),
        ("2026-03-30T12:00:00Z", "Europe/Berlin", "03-29T22:00", "02-28T23:00"),
        ("2026-10-25T00:30:00Z", "Europe/Berlin", "10-24T22:00", "09-30T22:00"),
        ("2026-10-25T01:30:00Z", "Europe/Berlin", "10-24T22:00", "09-30T22:00"),
        ("2026-10-26T12:00:00Z", "Europe/Berlin", "10-25T23:00", "09-30T22:00"),
        ("2026-09-06T12:00:00Z", "America/Santiago", "09-06T04:00", "09-01T04:00"),
    ],
)
def test_today_and_the_month_begin_at_midnight_of_their_zone(now, zone, today, month):
    """At quarters of an hour, over month borders, on days of 23 and 25 hours, on one whose midnight there is not."""
    assert [today, month] == starts(now, zone)


@pytest.mark.parametrize("now", ["2026-11-01T04:30:00Z", "2026-11-01T05:30:00Z", "2026-11-01T06:30:00Z"])
def test_a_day_whose_midnight_comes_twice_begins_with_the_first(now):
    """In Havana the clock goes back from one to midnight: the hour before that belongs to the day, too."""
    assert starts(now, "America/Havana") == ["11-01T04:00", "11-01T04:00"]


quarters = st.integers(at("2026-01-01T00:00:00Z") // SPEND_BUCKET_S, at("2027-02-01T00:00:00Z") // SPEND_BUCKET_S)


@given(
    spent=st.lists(
        st.tuples(quarters, st.sampled_from(["V", "W"]), st.sampled_from(["USD", "CNY"]), st.integers(0, 10**12)),
        max_size=12,
    ),
    now=quarters,
    zone=st.sampled_from(ZONES),
    near=st.booleans(),
)
def test_spend_is_the_sum_over_the_days_of_the_zone(spent, now, zone, near):
    """What lies in today's and in this month's days, by their dates in the zone; dollars only, to the last digit."""
    if near:  # most of a year is not this month
        spent = [(now - quarter % 3200, *more) for quarter, *more in spent]
    now_s, place = now * SPEND_BUCKET_S + 600.0, ZoneInfo(zone)
    today = datetime.fromtimestamp(now_s, place).date()
    hashes, expected = {}, {}
    for quarter, version, currency, nanos in spent:
        start_s = quarter * SPEND_BUCKET_S
        if start_s > now_s:
            continue
        fields = hashes.setdefault(spend_hash(start_s), {})
        field = json.dumps([version, currency, start_s]).encode()
        fields[field] = b"%d" % (int(fields.get(field, 0)) + nanos)
        day = datetime.fromtimestamp(start_s, place).date()
        if currency == "USD" and (day.year, day.month) == (today.year, today.month):
            expected[version, "month"] = expected.get((version, "month"), 0) + nanos
            expected[version, "today"] = expected.get((version, "today"), 0) + nanos * (day == today)
    found = spend_usd([hashes.get(name, {}) for name in hashes_needed(now_s, place)], now_s, place)

    assert {key: nanos / 10**9 for key, nanos in expected.items()} == found


@pytest.mark.parametrize(
    ("now", "zone", "months"),
    [
        ("2026-11-23T02:00:00Z", "UTC", {"2026-11"}),
        ("2026-11-30T02:00:00Z", "UTC", {"2026-11", "2026-12"}),
        ("2026-11-23T02:00:00Z", "Asia/Shanghai", {"2026-10", "2026-11"}),
        ("2026-11-30T16:00:00Z", "Asia/Shanghai", {"2026-11", "2026-12"}),
        ("2026-12-01T04:59:59Z", "America/New_York", {"2026-11", "2026-12"}),
        ("2026-12-01T05:00:00Z", "America/New_York", {"2026-12"}),
        ("2027-01-05T00:00:00Z", "Asia/Kathmandu", {"2026-12", "2027-01"}),
    ],
)
def test_the_hashes_of_every_month_the_windows_reach_into(now, zone, months):
    """A local month begins or ends in another UTC month; a clock a day ahead is looked up, too."""
    assert {f"spend:{month}" for month in months} == set(hashes_needed(at(now), ZoneInfo(zone)))


def test_nothing_spent_is_nothing_shown():
    """Without a quarter in the month there is no version to show."""
    assert spend_usd([{}, {}], at("2026-11-23T02:00:00Z"), ZoneInfo("UTC")) == {}


def test_a_version_of_the_month_has_a_today():
    """It is 0 where nothing was spent today."""
    field = json.dumps(["V", "USD", int(at("2026-11-22T23:45:00Z"))]).encode()

    assert spend_usd([{field: b"2500000000"}], at("2026-11-23T02:00:00Z"), ZoneInfo("UTC")) == {
        ("V", "month"): 2.5,
        ("V", "today"): 0.0,
    }
