"""What the console says of a budget: the sums of the buckets that count now, and in which stretch of time."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.console.budgets import budget_state
from proxy.pricing.budgets import ROLLING_BUCKETS, Budget

HOUR_S, DAY_S = 3600, 86_400
NOW_S = 1_795_399_200.0  # 2026-11-23T02:00:00Z, a Monday
TODAY = int(NOW_S) // DAY_S * DAY_S

day = Budget("b", 1000, "USD", period="day")
hours = Budget("b", 1000, "USD", rolling_s=60 * HOUR_S)  # buckets of an hour


def local(text, zone):
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp())


def kept(spent=(), held=()):
    """A budget's hash as it stands in the store."""
    fields = {f"spent:{bucket}": nanos for bucket, nanos in dict(spent).items()}
    fields |= {f"held:{bucket}": nanos for bucket, nanos in dict(held).items()}
    return {name.encode(): str(nanos).encode() for name, nanos in fields.items()}


def sums(budget, fields, now_s=NOW_S):
    state = budget_state(budget, fields, now_s)
    return state.spent_nanos, state.reserved_nanos


@pytest.mark.parametrize("budget", [day, hours])
def test_of_nothing_kept_nothing_is_spent(budget):
    state = budget_state(budget, {}, NOW_S)

    assert (state.budget, state.spent_nanos, state.reserved_nanos) == (budget, 0, 0)
    assert state.window == budget.window_at(NOW_S)


def test_a_calendar_budget_shows_its_period_and_neither_the_one_before_nor_after():
    fields = kept({TODAY - DAY_S: 7, TODAY: 30, TODAY + DAY_S: 900}, {TODAY - DAY_S: 5, TODAY: 4, TODAY + DAY_S: 800})

    assert sums(day, fields) == (30, 4)
    assert sums(day, fields, TODAY - 0.001) == (7, 5)
    assert sums(day, fields, TODAY + DAY_S) == (900, 800)


@pytest.mark.parametrize(
    ("period", "start", "end"),
    [
        ("hour", "2026-11-23T10:00", "2026-11-23T11:00"),
        ("day", "2026-11-23T00:00", "2026-11-24T00:00"),
        ("week", "2026-11-23T00:00", "2026-11-30T00:00"),
        ("month", "2026-11-01T00:00", "2026-12-01T00:00"),
    ],
)
def test_a_period_is_that_of_the_budget_s_time_zone(period, start, end):
    """In Shanghai it is ten in the morning."""
    budget = Budget("b", 1000, "USD", period=period, zone="Asia/Shanghai")
    bucket = local(start, "Asia/Shanghai")

    state = budget_state(budget, kept({bucket: 30, bucket - 1: 7}, {bucket: 4}), NOW_S)

    assert (state.spent_nanos, state.reserved_nanos) == (30, 4)
    assert state.window == (bucket, local(end, "Asia/Shanghai"))


def test_a_rolling_budget_shows_the_sum_of_its_last_buckets_and_of_the_one_that_has_begun():
    first, newest = int(NOW_S) - ROLLING_BUCKETS * HOUR_S, int(NOW_S)
    fields = kept(
        {first - HOUR_S: 1000, first: 1, newest - HOUR_S: 20, newest: 300, newest + HOUR_S: 4000},
        {first: 5, newest: 60},
    )

    assert sums(hours, fields) == sums(hours, fields, NOW_S + HOUR_S - 0.001) == (321, 65)
    assert sums(hours, fields, NOW_S + HOUR_S) == (4320, 60)
    assert budget_state(hours, fields, NOW_S).window == (first, newest + HOUR_S)


@given(st.lists(st.tuples(st.integers(-70, 5), st.integers(0, 10**15), st.integers(0, 10**15)), max_size=80))
def test_sums_are_exact_and_of_every_bucket_once(found):
    buckets = {int(NOW_S) + at * HOUR_S: (spent, held) for at, spent, held in found}
    fields = kept(
        {bucket: spent for bucket, (spent, _) in buckets.items()},
        {bucket: held for bucket, (_, held) in buckets.items()},
    )
    inside = [both for bucket, both in buckets.items() if -ROLLING_BUCKETS * HOUR_S <= bucket - NOW_S <= 0]

    assert sums(hours, fields) == (sum(spent for spent, _ in inside), sum(held for _, held in inside))


@pytest.mark.parametrize(
    ("budget", "before"),
    [
        (day, hours),
        (Budget("b", 1000, "USD", period="day", zone="America/New_York"), day),
        (Budget("b", 1000, "USD", period="month"), day),
        (hours, Budget("b", 1000, "USD", rolling_s=61 * 60)),
    ],
)
def test_after_a_change_of_period_only_those_buckets_count_that_an_exchange_is_admitted_by(budget, before):
    """`reserve.lua` asks for the budget's own buckets by name; what the old period left beside them it does not see."""
    own, old = budget.bucket_at(NOW_S).start_s, before.bucket_at(NOW_S).start_s - before.width_s
    window = budget.window_at(NOW_S)

    assert window.start_s < old < window.end_s
    assert sums(budget, kept({own: 30, old: 500}, {own: 4, old: 600})) == (30, 4)
