"""How much is held for an exchange: what it is likely to cost, and the most that it can."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing.given import FLASH_1017, PRO, SMALL, at, shipped_texts

from proxy.budget_admission import LATE_S, span_of
from proxy.gateway.admission import ADDED_TOKENS, MOST_OUTPUT_TOKENS, likely_nanos, worst_case_nanos
from proxy.gateway.likely import COLD, Likely
from proxy.metering.bounds import Bounds
from proxy.pricing.budgets import NANO
from proxy.pricing.catalog import parse_catalog
from proxy.pricing.cost import price_usage
from proxy.pricing.tariff import dearest_prices
from proxy.usage import TokenUsage

BODY = 1000
PRICES = (10, 1000, 2000, 3000)


# What is likely.


def test_what_is_likely_goes_by_size_and_what_was_learned():
    learned = Likely(hit_per_byte=0.2, miss_per_byte=0.1, output=50.0)
    per_million = (1000 * 0.2 * 10_000 + 1000 * 0.1 * 1_000_000 + 50 * 4_000_000) / 1_000_000

    assert likely_nanos(BODY, Bounds(), learned, (10_000, 1_000_000, 2_000_000, 4_000_000)) == round(per_million)


@given(
    st.integers(0, 10**6),
    st.integers(1, 10**6),
    st.integers(1, 8),
    st.floats(0, 1e6),
    st.tuples(*[st.integers(0, 10**12)] * 4),
)
def test_what_is_likely_never_takes_more_output_than_is_allowed(size, max_tokens, choices, output, prices):
    learned = Likely(0.1, 0.4, output)
    unlimited = likely_nanos(size, Bounds(None, choices), learned, prices)
    at_most = likely_nanos(size, Bounds(None, choices), learned._replace(output=float(max_tokens)), prices)

    assert likely_nanos(size, Bounds(max_tokens, choices), learned, prices) == min(unlimited, at_most)


def test_what_is_likely_is_that_of_every_choice():
    once, three = (likely_nanos(0, Bounds(10, choices), COLD, PRICES) for choices in (1, 1000))

    assert (once, three) == (0, 30)


# The worst case.


CATALOGS = {"shipped": parse_catalog(shipped_texts()), "small": parse_catalog(SMALL)}
BORDERS = [
    *(("shipped", version, at(f"2026-11-23T{clock}Z")) for version in (FLASH_1017, PRO) for clock in
      ("01:00:00", "04:00:00", "06:00:00", "10:00:00")),
    ("shipped", FLASH_1017, at("2026-11-20T16:00:00Z")),
    ("shipped", FLASH_1017, at("2027-02-08T01:00:00Z")),
    *(("shipped", "DeepSeek-V4-Flash-0731", at(edge)) for edge in ("2026-08-16T16:00:00Z",)),
    *(("small", "A", at(edge)) for edge in
      ("2026-02-01T00:00:00Z", "2026-02-02T22:00:00Z", "2026-02-03T02:00:00Z", "2026-02-02T12:00:00Z")),
]  # fmt: skip
UNTIL_S = 600.0


@st.composite
def exchanges(draw):
    """Where and when an exchange begins, what bounds it, and what it came to within them at any moment until it has to end."""
    name, version, border_s = draw(st.sampled_from(BORDERS))
    now_s = border_s + draw(st.one_of(st.just(0.0), st.floats(-UNTIL_S - LATE_S - 5, 5), st.floats(-90_000, 90_000)))
    end_s = draw(st.one_of(st.just(now_s), st.just(border_s), st.floats(now_s, now_s + UNTIL_S + LATE_S)))
    size, choices = draw(st.integers(0, 10**6)), draw(st.integers(1, 5))
    bounds = Bounds(draw(st.one_of(st.none(), st.integers(1, 10**6))), choices)
    output = (MOST_OUTPUT_TOKENS if bounds.max_tokens is None else bounds.max_tokens) * choices
    prompt = draw(st.sampled_from([size + ADDED_TOKENS, size // 2]) | st.integers(0, size + ADDED_TOKENS))
    completion = draw(st.just(output) | st.integers(0, output))
    hit, reasoning = draw(st.integers(0, prompt)), draw(st.integers(0, completion))
    usage = TokenUsage(hit, prompt - hit, reasoning, completion - reasoning)
    return CATALOGS[name], version, now_s, min(max(end_s, now_s), now_s + UNTIL_S + LATE_S), size, bounds, usage


@given(exchanges(), st.sampled_from(["USD", "CNY"]))
def test_no_exchange_within_its_bounds_costs_more_than_its_worst_case(exchange, currency):
    """At any instant at which it may end, that of another price or band among them."""
    catalog, version, now_s, end_s, size, bounds, usage = exchange
    prices = dearest_prices(catalog, version, currency, span_of("end", now_s, now_s, UNTIL_S))
    if prices is None:
        return  # refused
    charged = price_usage(catalog, usage, version, end_s)

    assert sum(one.total_nanos for one in charged if one.currency == currency) <= worst_case_nanos(size, bounds, prices)


@given(exchanges(), st.floats(0, 600))
def test_neither_where_the_price_is_that_of_its_start(exchange, late_s):
    """However late its body came."""
    catalog, version, now_s, _, size, bounds, usage = exchange
    prices = dearest_prices(catalog, version, "USD", span_of("start", now_s, now_s + late_s, UNTIL_S))
    charged = price_usage(catalog, usage, version, now_s)

    assert (prices is None) is not any(one.currency == "USD" for one in charged)
    if prices is not None:
        total = sum(one.total_nanos for one in charged if one.currency == "USD")
        assert total <= worst_case_nanos(size, bounds, prices)


@pytest.mark.parametrize(
    ("first", "last", "dear"),
    [
        ("03:59:59", "04:30:00", True),
        ("04:00:00", "05:59:59", False),
        ("04:00:00", "06:00:00", True),
        ("05:00:00", "06:00:01", True),
        ("10:00:00", "23:00:00", False),
        ("04:30:00", "11:00:00", True),
    ],
)
def test_the_dearest_price_is_that_of_a_peak_which_the_span_touches(first, last, dear):
    """Also one that lies within it, with an off-peak price at both ends."""
    span = (at(f"2026-11-23T{first}Z"), at(f"2026-11-23T{last}Z"))
    peak, off_peak = (
        dearest_prices(CATALOGS["shipped"], FLASH_1017, "USD", (at_s, at_s))
        for at_s in (at("2026-11-23T02:00:00Z"), at("2026-11-23T05:00:00Z"))
    )

    assert peak > off_peak
    assert dearest_prices(CATALOGS["shipped"], FLASH_1017, "USD", span) == (peak if dear else off_peak)


DEAR_HOUR = """
valid_to = 2026-01-10T00:00:00Z
per_million = { input_cache_miss = "1", output = "2" }
source = "a page"
confidence = "high"
checked = 2026-01-01
review_by = 2026-12-31
[[price]]
id = "a-usd-dear"
versions = ["A"]
currency = "USD"
valid_from = 2026-01-10T00:00:00Z
valid_to = 2026-01-10T01:00:00Z
per_million = { input_cache_miss = "9", output = "9" }
source = "a page"
confidence = "high"
checked = 2026-01-01
review_by = 2026-12-31
[[price]]
id = "a-usd-flat-again"
versions = ["A"]
currency = "USD"
valid_from = 2026-01-10T01:00:00Z
valid_to = 2026-02-01T00:00:00Z
"""


def changed(old, new):
    """The small catalog with another text of its prices."""
    assert old in SMALL["money.toml"]
    return parse_catalog({**SMALL, "money.toml": SMALL["money.toml"].replace(old, new, 1)})


def test_the_dearest_price_is_that_of_a_price_which_comes_and_goes_in_between():
    catalog = changed("\nvalid_to = 2026-02-01T00:00:00Z\n", DEAR_HOUR)
    span = (at("2026-01-09T23:59:00Z"), at("2026-01-10T01:01:00Z"))

    assert dearest_prices(catalog, "A", "USD", (span[0], span[0]))[1] == NANO
    assert dearest_prices(catalog, "A", "USD", span)[1] == 9 * NANO


def test_the_dearest_price_heeds_that_a_day_begins_within_a_peak_window():
    """A Monday in Shanghai begins on Sunday at 16:00 UTC, and with it the peak of Mondays."""
    catalog = changed('"12:00-13:30"', '"12:00-13:30", "15:00-17:00"')
    span = (at("2026-02-08T15:30:00Z"), at("2026-02-08T17:30:00Z"))

    assert dearest_prices(catalog, "A", "USD", (span[0], span[0]))[1] == NANO // 2
    assert dearest_prices(catalog, "A", "USD", span)[1] == NANO


def test_the_dearest_price_heeds_the_operator_s_calendar_of_holidays():
    """National Day is a holiday officially; an operator whose calendar has none pays the peak price."""
    peak_s = at("2026-10-01T02:00:00Z")
    official, own = (
        dearest_prices(CATALOGS["shipped"], FLASH_1017, "USD", (peak_s, peak_s), holidays)
        for holidays in ({}, {2026: frozenset()})
    )

    assert own > official


def test_there_is_no_dearest_price_where_one_is_not_known_in_between():
    before_any_s = at("2026-01-01T00:00:00Z")

    assert dearest_prices(CATALOGS["small"], "A", "USD", (before_any_s - 5, before_any_s + 5)) is None
    assert dearest_prices(CATALOGS["small"], "B", "USD", (before_any_s, before_any_s)) is None


def test_the_worst_case_of_no_limit_is_all_that_a_model_writes():
    assert worst_case_nanos(0, Bounds(), PRICES) == worst_case_nanos(0, Bounds(MOST_OUTPUT_TOKENS), PRICES)


@pytest.mark.parametrize("prices", [(5, 1, 1, 1), (1, 5, 1, 1), (1, 1, 5, 1), (1, 1, 1, 5)])
def test_a_worst_case_is_all_of_the_dearer_kind(prices):
    """Which kind the tokens are is told by the answer, and no order of the prices is taken for granted."""
    prices = tuple(price * 10**6 for price in prices)
    dear_input, dear_output = max(prices[:2]) // 10**6, max(prices[2:]) // 10**6

    assert worst_case_nanos(0, Bounds(100), prices) == ADDED_TOKENS * dear_input + 102 * dear_output + 4


def test_the_worst_case_is_near_what_can_be():
    """It is a bound, but not so loose that nothing fits: half a thousand tokens, and the ends of answers."""
    prices = (1_000_000,) * 4

    assert worst_case_nanos(BODY, Bounds(100, 3), prices) == BODY + ADDED_TOKENS + 3 * 102 + 4
