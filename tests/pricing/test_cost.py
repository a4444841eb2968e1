from datetime import date
from fractions import Fraction

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from pricing.given import FLASH_1017, at

from proxy.pricing.cost import charge, price_usage, rounded
from proxy.pricing.tariff import Rate
from proxy.usage import Band, Charge, TokenUsage

tokens = st.integers(0, 10**9)
prices = st.tuples(*[st.integers(0, 10**12)] * 4)
usages = st.builds(TokenUsage, tokens, tokens, tokens, tokens)
USAGE = TokenUsage(input_cache_hit=1000, input_cache_miss=345, output_reasoning=67, output_answer=89)


def rate_of(nanos, lower=None):
    band = Band.PEAK if lower is None else Band.UNKNOWN
    return Rate("V", "USD", "v-usd", band, nanos, lower, "a page", date(2026, 12, 31))


@given(usage=usages, nanos=prices)
def test_every_kind_is_rounded_half_even_once(usage, nanos):
    """Each part is the exact product rounded to the nearest nano-unit, to the even one in the middle."""
    exact = [Fraction(count * price, 10**6) for (_, count), price in zip(usage.by_kind(), nanos, strict=True)]
    charged = charge(usage, rate_of(nanos))

    assert tuple(round(part) for part in exact) == charged.nanos
    assert all(type(part) is int for part in charged.nanos)


@given(whole=st.integers(0, 10**12))
def test_the_middle_goes_to_the_even_side(whole):
    """Exactly half a nano-unit rounds to the even neighbour, a millionth beside it to the nearer one."""
    middle = whole * 10**6 + 500_000

    assert (whole + whole % 2, whole, whole + 1) == (rounded(middle), rounded(middle - 1), rounded(middle + 1))


@given(usage=usages, nanos=prices, data=st.data())
def test_the_uncertain_part_is_the_difference_of_two_charges(usage, nanos, data):
    """What an unknown band leaves open is the charge at the higher price less the one at the lower, never negative."""
    lower = tuple(data.draw(st.integers(0, price)) for price in nanos)
    unknown = charge(usage, rate_of(nanos, lower))

    assert charge(usage, rate_of(nanos)).nanos == unknown.nanos
    assert unknown.total_nanos - charge(usage, rate_of(lower)).total_nanos == unknown.uncertain_nanos
    assert unknown.uncertain_nanos >= 0


def test_both_currencies_of_an_exchange(catalog):
    """One exchange is charged in each currency that has a price, at the figures one works out by hand."""
    charges = {one.currency: one for one in price_usage(catalog, USAGE, FLASH_1017, at("2026-11-23T02:00:00Z"))}

    assert {
        "USD": Charge(
            "USD",
            "deepseek-v4.1-flash-usd-2026-09-10",
            Band.PEAK,
            (6_000, 103_500, 80_400, 106_800),
            saved_nanos=294_000,
            premium_nanos=148_350,
        ),
        "CNY": Charge(
            "CNY",
            "deepseek-v4.1-flash-cny-2026-09-10",
            Band.PEAK,
            (40_000, 690_000, 536_000, 712_000),
            saved_nanos=1_960_000,
            premium_nanos=989_000,
        ),
    } == charges


def test_what_has_no_price_is_not_charged_zero(catalog):
    """No charge at all stands for a version, a time or a currency without a price."""
    assert price_usage(catalog, USAGE, "unheard-of", at("2026-11-23T02:00:00Z")) == ()
    assert price_usage(catalog, USAGE, FLASH_1017, at("2026-01-01T00:00:00Z")) == ()
    usd_only = price_usage(catalog, USAGE, "DeepSeek-V4-Flash", at("2026-05-01T00:00:00Z"))
    assert [one.currency for one in usd_only] == ["USD"]


def test_an_unknown_band_carries_its_uncertainty(catalog):
    """In a year without a calendar the peak price is charged and half of it is uncertain; an operator's settles it."""
    when = at("2027-03-01T02:00:00Z")
    bare = msgspec.structs.replace(catalog, holidays={})
    (usd, _) = price_usage(bare, USAGE, FLASH_1017, when)
    (settled, _) = price_usage(bare, USAGE, FLASH_1017, when, {2027: frozenset({date(2027, 3, 1)})})

    assert (usd.band, usd.total_nanos, usd.uncertain_nanos) == (Band.UNKNOWN, 296_700, 148_350)
    assert (settled.band, settled.total_nanos, settled.uncertain_nanos) == (Band.OFF_PEAK, 148_350, 0)
