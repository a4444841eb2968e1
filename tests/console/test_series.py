from console.given import snapshot
from hypothesis import given
from hypothesis import strategies as st
from ledger.given import NOW_S, record

from proxy.console.series import series_of, zeros_from_start
from proxy.ledger.families import DURATION_BUCKETS_S, FAMILIES, field_of, series_field
from proxy.ledger.tally import Retention, fold

TOKENS = ("default", "V", "m", "input_cache_hit", "reported")
FIELD = series_field("tokens_total", *TOKENS)


def test_counters_are_shown_in_their_unit():
    """Tokens as they are, money in whole dollars, each under its labels."""
    cost = series_field("cost_usd_total", *TOKENS)
    found = series_of(snapshot({FIELD: 5, cost: 1_500_000_001}), 15.0)

    assert found.counters["tokens_total"] == {TOKENS: 5.0}
    assert found.counters["cost_usd_total"] == {TOKENS: 1.500000001}
    assert {("tokens_total", TOKENS), ("cost_usd_total", TOKENS)} == found.seen_s.keys()


def test_every_family_is_there_from_the_start():
    """A family without a series has none, and is there all the same."""
    assert {name: {} for name in FAMILIES} == series_of(snapshot(), 15.0).counters


def test_a_new_series_is_held_at_zero():
    """Until it has been there for the hold time a series shows 0, from then on its value: no increase is missed."""
    values = {
        age: series_of(snapshot({FIELD: 5}, seen_s=NOW_S - age), 15.0).counters["tokens_total"][TOKENS]
        for age in (-1, 0, 14.9, 15, 16)
    }

    assert values == {-1: 0.0, 0: 0.0, 14.9: 0.0, 15: 5.0, 16: 5.0}


def test_without_a_hold_a_series_is_shown_at_once():
    """A hold of 0 seconds holds nothing."""
    assert series_of(snapshot({FIELD: 5}, seen_s=NOW_S), 0.0).counters["tokens_total"] == {TOKENS: 5.0}


def test_versions_in_force_show_zero_until_they_are_used():
    """Their series are there before the first token, and give way to the value."""
    zeros = zeros_from_start([("V", ("m", "n")), ("W", ("w",))], "default")
    before = series_of(snapshot(), 15.0, zeros).counters
    after = series_of(snapshot({FIELD: 5}), 15.0, zeros).counters

    assert {0.0} == {value for series in before.values() for value in series.values()}
    assert tuple(len(before[name]) for name in ("tokens_total", "cost_usd_total", "requests_total")) == (12, 12, 3)
    assert before["tokens_total"].keys() == after["tokens_total"].keys()
    assert after["tokens_total"][TOKENS] == 5.0
    assert ("default", "W", "w", "chat", "complete") in before["requests_total"]


def test_a_family_of_a_later_release_is_passed_over():
    """What this release does not know is not shown, and does no harm."""
    found = series_of(snapshot({'["of_tomorrow_total","a"]': 5, FIELD: 6}), 15.0)

    assert "of_tomorrow_total" not in found.counters
    assert found.counters["tokens_total"] == {TOKENS: 6.0}


def test_a_histogram_is_cumulated():
    """Plain counts per bucket become counts up to each bound; the last one is the count of all."""
    parts = {"0": 2, "3": 1, str(len(DURATION_BUCKETS_S)): 4, "sum": 7_500_000}
    found = series_of(
        snapshot({field_of(("request_duration_seconds", "V", part)): count for part, count in parts.items()}), 15.0
    )
    histogram = found.histograms["request_duration_seconds"][("V",)]

    assert (2, 2, 2, 3, *[3] * (len(DURATION_BUCKETS_S) - 4), 7) == histogram.cumulated
    assert histogram.sum == 7.5


@given(durations=st.lists(st.floats(0, 3000), min_size=1, max_size=20))
def test_a_histogram_counts_what_was_observed(durations):
    """Through the tally and back: as many up to each bound as there were, and their sum to a microsecond each."""
    batch = fold("j", 1, [record(duration_s=duration) for duration in durations], Retention())
    histogram = series_of(snapshot(batch.additions[0].fields), 15.0).histograms["request_duration_seconds"][("V",)]
    expected = [sum(duration <= bound for duration in durations) for bound in (*DURATION_BUCKETS_S, float("inf"))]

    assert tuple(expected) == histogram.cumulated
    assert abs(histogram.sum - sum(durations)) <= 1e-6 * len(durations)
