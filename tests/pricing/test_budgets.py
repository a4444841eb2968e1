"""Budgets as arithmetic: which stretch of time an instant counts in, whom a budget is for, and what an exchange takes of it."""

import math
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import SettingsError
from proxy.pricing.budgets import ROLLING_BUCKETS, Budget, Whose, budgets_of, shares
from proxy.settings import BudgetSettings, Settings
from proxy.usage import Band, Charge, Outcome, Share

ZONES = ("UTC", "Europe/Berlin", "Asia/Shanghai", "Asia/Kolkata", "America/Havana", "Africa/Cairo")
"""Kolkata is half an hour off; in Havana and Cairo the clock is changed at midnight, so that a day has two, or none."""

HOUR_S, DAY_S = 3600, 86_400
AT_S = 1_795_399_200.0  # 2026-11-23T02:00:00Z, a Monday
whose = Whose("key-1", "app-1", "V", "m", "production")

periods = st.builds(
    Budget,
    st.just("b"),
    st.just(1),
    st.just("USD"),
    period=st.sampled_from(["hour", "day", "week", "month"]),
    zone=st.sampled_from(ZONES),
)
windows = st.builds(Budget, st.just("b"), st.just(1), st.just("USD"), rolling_s=st.integers(60, 90 * DAY_S))
instants = st.floats(1_704_067_200, 1_893_456_000)  # 2024 to 2030
borders = st.integers(1_704_067_200 // HOUR_S, 1_893_456_000 // HOUR_S).map(lambda hour: math.nextafter(hour * 3600, 0))


def local(text, zone):
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


# Time.


@given(st.one_of(periods, windows), st.one_of(instants, borders))
def test_every_instant_lies_in_its_own_bucket_and_buckets_tile_time(budget, at_s):
    bucket = budget.bucket_at(at_s)

    assert bucket.start_s <= at_s < bucket.end_s
    assert budget.bucket_at(bucket.start_s) == budget.bucket_at(math.nextafter(bucket.end_s, 0)) == bucket
    assert budget.bucket_at(bucket.start_s - 1).end_s == bucket.start_s
    assert budget.bucket_at(bucket.end_s).start_s == bucket.end_s


@given(periods, st.one_of(instants, borders), st.integers(-HOUR_S, HOUR_S))
def test_whoever_is_asked_the_edges_name_the_bucket_of_an_instant_nearby(budget, at_s, off_s):
    """Redis' clock picks among the edges; a worker whose clock is up to an hour off gives it the right ones."""
    edges = budget.edges_around(at_s + off_s)

    assert max(edge for edge in edges[:-1] if edge <= at_s) == budget.bucket_at(at_s).start_s


@given(windows, instants)
def test_a_rolling_window_is_never_shorter_than_what_was_asked_for_and_a_bucket_longer_at_most(budget, at_s):
    window = budget.window_at(at_s)

    assert window.start_s <= at_s - budget.rolling_s
    assert window.end_s - window.start_s == (ROLLING_BUCKETS + 1) * budget.width_s
    assert budget.width_s * ROLLING_BUCKETS < budget.rolling_s + ROLLING_BUCKETS
    assert budget.kept_from_s(at_s) < window.start_s


CHANGED = [
    ({"period": "day"}, {"period": "week"}, set()),
    ({"period": "day"}, {"period": "day", "zone": "Asia/Shanghai"}, set()),
    ({"period": "day"}, {"rolling_s": 5 * HOUR_S}, set()),
    ({"period": "month"}, {"period": "month", "app": "a", "refuses": True}, {"2026-11-01T00:00"}),
    ({"period": "month"}, {"period": "day"}, {"2026-11-01T00:00"}),
]


@pytest.mark.parametrize(("before", "after", "kept"), CHANGED)
def test_a_budget_of_another_length_or_zone_begins_anew(before, after, kept):
    """But for a start that both have: spend is kept by the starts of buckets, as docs/budgets.md says."""
    old, new = (
        {
            Budget("b", 1, "USD", **said).bucket_at(local(at, "UTC")).start_s
            for at in ("2026-11-24T13:37", "2026-11-01T13:37")
        }
        for said in (before, after)
    )

    assert old & new == {local(at, "UTC") for at in kept}


def test_doubled_rolling_hours_go_on_with_every_other_step():
    """The rest of what was spent before is not seen any more."""
    at_s = int(local("2026-11-24T13:37", "UTC"))
    once, twice = (Budget("b", 1, "USD", rolling_s=hours * HOUR_S) for hours in (24, 48))
    steps = range(at_s - 12 * HOUR_S, at_s, once.width_s)
    before = {once.bucket_at(step).start_s for step in steps}
    after = {twice.bucket_at(step).start_s for step in steps}

    assert len(before) == 30
    assert len(before & after) == 15


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2026-03-29", 23),
        ("Europe/Berlin", "2026-10-25", 25),
        ("Asia/Shanghai", "2026-03-29", 24),
        ("Asia/Kolkata", "2026-10-25", 24),
        ("America/Havana", "2026-03-08", 23),
        ("America/Havana", "2026-11-01", 25),
    ],
)
def test_a_day_is_as_long_as_the_clock_on_the_wall_makes_it(zone, day, hours):
    bucket = Budget("b", 1, "USD", period="day", zone=zone).bucket_at(local(f"{day}T12:00", zone))

    assert bucket.end_s - bucket.start_s == hours * HOUR_S


def test_an_hour_that_the_clock_shows_twice_is_two():
    berlin = Budget("b", 1, "USD", period="hour", zone="Europe/Berlin")
    first = local("2026-10-25T02:30", "Europe/Berlin")

    assert berlin.bucket_at(first + HOUR_S).start_s == berlin.bucket_at(first).end_s


@pytest.mark.parametrize(
    ("period", "at", "start", "end"),
    [
        ("hour", "2026-11-23T07:40", "2026-11-23T07:00", "2026-11-23T08:00"),
        ("week", "2026-11-29T23:59", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("week", "2026-11-23T00:00", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("month", "2026-01-31T23:59", "2026-01-01T00:00", "2026-02-01T00:00"),
        ("month", "2026-02-28T12:00", "2026-02-01T00:00", "2026-03-01T00:00"),
        ("month", "2026-12-31T23:59", "2026-12-01T00:00", "2027-01-01T00:00"),
    ],
)
@pytest.mark.parametrize("zone", ZONES[:4])
def test_periods_begin_and_end_where_people_expect_it(zone, period, at, start, end):
    """Weeks on Monday, months on their first, hours on the full one of the zone."""
    bucket = Budget("b", 1, "USD", period=period, zone=zone).bucket_at(local(at, zone))

    assert bucket == (local(start, zone), local(end, zone))


# Whom it is for.


@pytest.mark.parametrize(
    ("patterns", "counts"),
    [
        ({}, True),
        ({"app": "app-*"}, True),
        ({"app": "APP-*"}, False),
        ({"app": "app-?"}, True),
        ({"app": "app"}, False),
        ({"version": "V"}, True),
        ({"version": "V*", "model": "m", "purpose": "prod*"}, True),
        ({"version": "V*", "model": "n"}, False),
        ({"purpose": "validation"}, False),
    ],
)
def test_every_pattern_has_to_fit(patterns, counts):
    assert Budget("b", 1, "USD", **patterns).is_for(whose) is counts


@pytest.mark.parametrize("version", ["V", "V+r2", "V+r20", "V+other"])
def test_a_version_is_meant_with_all_its_revisions(version):
    assert Budget("b", 1, "USD", version="V").is_for(whose._replace(version=version))


def test_a_bracket_in_a_pattern_stands_for_itself():
    """Names hold brackets; only `*` and `?` are said to be special."""
    budget = Budget("b", 1, "USD", app="team[1]*")

    assert budget.is_for(whose._replace(app="team[1]-x"))
    assert not budget.is_for(whose._replace(app="team1-x"))


def test_a_budget_that_refuses_goes_by_the_key_and_one_that_alerts_by_the_stated_app():
    """In passthrough the header is the client's word: good for showing, not for holding a limit."""
    assert Budget("b", 1, "USD", app="key-1", refuses=True).is_for(whose)
    assert not Budget("b", 1, "USD", app="app-1", refuses=True).is_for(whose)
    assert Budget("b", 1, "USD", app="app-1").is_for(whose)


# What an exchange takes.


def taken(reserved=(), *, outcome=Outcome.COMPLETE, cost=30, currency="USD", **fields):
    budget = Budget("b", 1000, "USD", period="day", **fields)
    charges = (Charge(currency, "p", Band.FLAT, (cost, 0, 0, 0)),) if cost else ()
    return shares([budget], whose, AT_S, reserved, charges=charges, outcome=outcome)


def test_an_exchange_belongs_to_the_period_of_its_reservation():
    yesterday = int(AT_S) - DAY_S

    assert taken([Share("b", yesterday, 50)]) == (Share("b", yesterday, 50, 30),)


def test_what_nothing_was_reserved_for_counts_where_it_ended():
    assert taken() == (Share("b", int(AT_S) // DAY_S * DAY_S, 0, 30),)


@pytest.mark.parametrize(("cost", "kept"), [(0, 50), (30, 50), (80, 80)])
def test_interrupted_keeps_its_whole_reservation_and_never_less_than_it_cost(cost, kept):
    [share] = taken([Share("b", 0, 50)], outcome=Outcome.INTERRUPTED, cost=cost)

    assert share.taken_nanos == kept


def test_interrupted_keeps_its_reservation_also_where_another_version_is_taken_for_it_now():
    """What answered is not known: the budget that let it in keeps what was held, one that did not takes nothing."""
    [share] = taken([Share("b", 0, 50)], outcome=Outcome.INTERRUPTED, version="W")

    assert share == Share("b", 0, 50, 50)
    assert taken(outcome=Outcome.INTERRUPTED, version="W") == ()


def test_every_other_outcome_takes_what_it_cost():
    for outcome in set(Outcome) - {Outcome.INTERRUPTED}:
        assert [share.taken_nanos for share in taken([Share("b", 0, 50)], outcome=outcome)] == [30]


def test_another_version_than_the_budget_is_for_takes_nothing_of_it():
    assert taken([Share("b", 0, 50)], version="W") == ()


def test_money_of_another_currency_is_not_added():
    assert [share.taken_nanos for share in taken(currency="CNY")] == [0]


# Settings.


def test_settings_become_budgets_in_nano_units():
    found = budgets_of(Settings(budgets=(BudgetSettings(name="b", limit=0.1, rolling_hours=1.5, action="refuse"),)))

    assert (found[0].limit_nanos, found[0].rolling_s, found[0].refuses) == (100_000_000, 5400, True)


def test_a_budget_that_says_no_period_is_of_the_month():
    """As docs/budgets.md says."""
    (found,) = budgets_of(Settings(budgets=(BudgetSettings(name="b", limit=1),)))

    assert (found.period, found.rolling_s) == ("month", 0)


def test_a_zone_that_is_none_is_an_error_with_the_budget_s_name():
    with pytest.raises(SettingsError, match=r"\[\[budgets\]\] b: time_zone"):
        budgets_of(Settings(budgets=(BudgetSettings(name="b", limit=1, time_zone="Asia/Beijin"),)))
