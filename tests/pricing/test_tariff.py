from datetime import UTC, date, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing.given import FLASH, FLASH_1017, PRO, at

from proxy.pricing.tariff import bands, currencies, decimal, printed, rate_at
from proxy.usage import KINDS, Band

WORKDAY = "2026-11-23"  # a Monday, and no holiday
WINDOW_EDGES = [
    ("00:59:59", "01:00:00", Band.OFF_PEAK, Band.PEAK),
    ("03:59:59", "04:00:00", Band.PEAK, Band.OFF_PEAK),
    ("05:59:59", "06:00:00", Band.OFF_PEAK, Band.PEAK),
    ("09:59:59", "10:00:00", Band.PEAK, Band.OFF_PEAK),
]


def millions(catalog, version, currency, when, **more):
    """Hit, miss and output as printed, and the band."""
    rate = rate_at(catalog, version, currency, at(when), **more)
    hit, miss, reasoning, answer = printed(rate).values()
    assert reasoning == answer
    return f"{hit} {miss} {answer}", rate.band


@pytest.mark.parametrize(
    ("version", "currency", "printed_prices", "price_id"),
    [
        (FLASH_1017, "USD", ("0.006 0.3 1.2", "0.003 0.15 0.6"), "deepseek-v4.1-flash-usd-2026-09-10"),
        (FLASH_1017, "CNY", ("0.04 2 8", "0.02 1 4"), "deepseek-v4.1-flash-cny-2026-09-10"),
        (PRO, "USD", ("0.044 1.32 3.96", "0.022 0.66 1.98"), "deepseek-v4-pro-0813-usd-2026-08-16"),
        (PRO, "CNY", ("0.3 9 27", "0.15 4.5 13.5"), "deepseek-v4-pro-0813-cny-2026-08-16"),
    ],
)
def test_the_prices_of_23_november_2026(catalog, version, currency, printed_prices, price_id):
    """Both versions in force cost, in both currencies and both bands, what the pricing pages print."""
    peak, off_peak = printed_prices
    assert (peak, Band.PEAK) == millions(catalog, version, currency, f"{WORKDAY}T02:00:00Z")
    assert (off_peak, Band.OFF_PEAK) == millions(catalog, version, currency, f"{WORKDAY}T05:00:00Z")
    assert price_id == rate_at(catalog, version, currency, at(f"{WORKDAY}T05:00:00Z")).price_id
    assert "pricing" in rate_at(catalog, version, currency, at(f"{WORKDAY}T05:00:00Z")).source


@pytest.mark.parametrize(
    ("version", "edge", "before", "after"),
    [
        ("DeepSeek-V4-Flash", "2026-04-24T00:00:00Z", None, "0.028 0.14 0.28"),
        ("DeepSeek-V4-Flash", "2026-04-26T12:15:00Z", "0.028 0.14 0.28", "0.0028 0.14 0.28"),
        ("DeepSeek-V4-Flash", "2026-08-16T16:00:00Z", "0.0028 0.14 0.28", None),
        ("DeepSeek-V4-Flash-0731", "2026-08-16T16:00:00Z", "0.0028 0.14 0.28", "0.007 0.22 0.66"),
        ("DeepSeek-V4-Flash-0731", "2026-09-10T04:00:00Z", "0.014 0.44 1.32", None),
        ("DeepSeek-V4-Flash-Vision-Exp", "2026-08-21T00:00:00Z", None, "0.007 0.22 0.66"),
        ("DeepSeek-V4-Flash-Vision-Exp", "2026-09-10T04:00:00Z", "0.014 0.44 1.32", None),
        (FLASH, "2026-09-10T04:00:00Z", None, "0.003 0.15 0.6"),
        ("DeepSeek-V4-Pro", "2026-04-24T00:00:00Z", None, "0.145 1.74 3.48"),
        ("DeepSeek-V4-Pro", "2026-04-25T00:00:00Z", "0.145 1.74 3.48", "0.03625 0.435 0.87"),
        ("DeepSeek-V4-Pro", "2026-04-26T12:15:00Z", "0.03625 0.435 0.87", "0.003625 0.435 0.87"),
        ("DeepSeek-V4-Pro", "2026-08-16T16:00:00Z", "0.003625 0.435 0.87", None),
        (PRO, "2026-08-16T16:00:00Z", "0.003625 0.435 0.87", "0.022 0.66 1.98"),
        (PRO, "2026-09-14T04:00:00Z", "0.044 1.32 3.96", "0.022 0.66 1.98"),
    ],
)
def test_a_price_changes_at_its_second(catalog, version, edge, before, after):
    """One second before an edge the old price holds, at the edge the new one; before and after all prices, none."""
    for at_s, expected in ((at(edge) - 1, before), (at(edge), after)):
        rate = rate_at(catalog, version, "USD", at_s)
        found = None if rate is None else " ".join(list(printed(rate).values())[:3])
        assert expected == found


def test_cny_begins_with_its_own_sheet(catalog):
    """Before its first CNY price a version is unpriced in CNY, whatever it costs in USD."""
    edge = at("2026-08-16T16:00:00Z")

    assert rate_at(catalog, PRO, "CNY", edge - 1) is None
    assert millions(catalog, PRO, "CNY", "2026-08-16T16:00:00Z")[0] == "0.15 4.5 13.5"
    assert currencies(catalog, "DeepSeek-V4-Flash-0731") == ("USD",)
    assert rate_at(catalog, PRO, "EUR", edge) is None
    assert rate_at(catalog, "unheard-of", "USD", edge) is None


@pytest.mark.parametrize("edge", WINDOW_EDGES)
@pytest.mark.parametrize("day", ["2026-08-17", "2026-09-09", "2026-09-10", WORKDAY, "2026-11-27"])
def test_a_window_opens_and_closes_at_its_second(catalog, day, edge):
    """On a working day each of the four edges falls exactly on its second, in every period of the scheme."""
    last, first, before, after = edge
    for clock, band in ((last, before), (first, after)):
        assert band == rate_at(catalog, PRO, "USD", at(f"{day}T{clock}Z")).band


def test_a_window_holds_within_fractions_of_a_second(catalog):
    """The last peak second is peak to its end."""
    assert rate_at(catalog, PRO, "USD", at(f"{WORKDAY}T04:00:00Z") - 0.001).band is Band.PEAK


@pytest.mark.parametrize(
    ("day", "band"),
    [
        ("2026-08-22", Band.PEAK),  # Saturday, every day has its peak
        ("2026-08-23", Band.OFF_PEAK),  # Sunday, the first free weekend day
        ("2026-08-24", Band.PEAK),
        ("2026-08-29", Band.OFF_PEAK),
        ("2026-09-19", Band.OFF_PEAK),
        ("2026-11-28", Band.OFF_PEAK),
        ("2026-11-29", Band.OFF_PEAK),
        ("2026-11-30", Band.PEAK),
    ],
)
def test_weekends_are_off_peak_since_23_august(catalog, day, band):
    """In the first week every day had its peak hours; since then Saturday and Sunday have none."""
    assert band == rate_at(catalog, PRO, "USD", at(f"{day}T02:00:00Z")).band


def test_monday_is_beijings(small):
    """A window in the evening of UTC belongs to the day it already is in Shanghai; it may run over midnight."""
    peaks = ["2026-03-01T22:00:00Z", "2026-03-01T23:59:59Z", "2026-03-02T00:00:00Z", "2026-03-02T01:59:59Z"]
    others = ["2026-03-01T21:59:59Z", "2026-03-02T02:00:00Z", "2026-03-02T22:00:00Z", "2026-03-03T01:00:00Z"]

    assert {Band.PEAK} == {rate_at(small, "A", "USD", at(when)).band for when in peaks}
    assert {Band.OFF_PEAK} == {rate_at(small, "A", "USD", at(when)).band for when in others}


@pytest.mark.parametrize("day", ["2026-09-25", "2026-10-01", "2026-10-02", "2026-10-05", "2026-10-06", "2026-10-07"])
def test_public_holidays_are_off_peak(catalog, day):
    """Each weekday holiday of 2026 under the holiday rule is off-peak all day, and off-peak is certain."""
    for clock in ("01:00:00", "03:59:59", "06:00:00", "09:59:59"):
        rate = rate_at(catalog, PRO, "USD", at(f"{day}T{clock}Z"))
        assert (rate.band, rate.lower_nanos_per_million) == (Band.OFF_PEAK, None)


@pytest.mark.parametrize("day", ["2026-09-24", "2026-09-28", "2026-09-30", "2026-10-08", "2026-10-09"])
def test_the_days_around_the_holidays_have_their_peak(catalog, day):
    """The working days next to a holiday are ordinary ones."""
    assert rate_at(catalog, PRO, "USD", at(f"{day}T06:00:00Z")).band is Band.PEAK


@pytest.mark.parametrize("day", ["2026-09-20", "2026-10-10"])
def test_make_up_weekends_stay_off_peak(catalog, day):
    """A weekend day on which China works in place of a holiday is a weekend day to the tariff."""
    assert rate_at(catalog, PRO, "USD", at(f"{day}T02:00:00Z")).band is Band.OFF_PEAK


def test_holidays_did_not_count_before_they_were_in_the_rule(catalog):
    """Under the Monday to Friday rule an operator's holiday changes nothing; under the next one it does."""
    own = {2026: frozenset({date(2026, 9, 16), date(2026, 9, 18)})}

    assert millions(catalog, PRO, "USD", "2026-09-16T02:00:00Z", holidays=own)[1] == Band.PEAK
    assert rate_at(catalog, PRO, "USD", at("2026-09-18T02:00:00Z")).band == Band.PEAK
    assert millions(catalog, PRO, "USD", "2026-09-18T02:00:00Z", holidays=own)[1] == Band.OFF_PEAK


def monday_of_an_unpublished_year(catalog):
    """The first Monday of March in the year behind the last official calendar (2027 with the pinned library)."""
    march = datetime(max(catalog.holidays) + 1, 3, 1, tzinfo=UTC)
    return march + timedelta(days=-march.weekday() % 7)


def test_an_unpublished_year_is_unknown_where_a_holiday_could_matter(catalog):
    """A weekday inside a window is unknown, at the peak price with the off-peak one beside it; all else is certain."""
    monday = monday_of_an_unpublished_year(catalog).timestamp()
    unknown = rate_at(catalog, FLASH_1017, "USD", monday + 2 * 3600)
    peak, off_peak = bands(catalog, FLASH_1017, "USD", monday)

    assert unknown.band == Band.UNKNOWN
    assert peak.nanos_per_million == unknown.nanos_per_million
    assert off_peak.nanos_per_million == unknown.lower_nanos_per_million
    assert peak.price_id == unknown.price_id
    assert rate_at(catalog, FLASH_1017, "USD", monday + 5 * 3600).band == Band.OFF_PEAK
    assert rate_at(catalog, FLASH_1017, "USD", monday - 22 * 3600).band == Band.OFF_PEAK


def test_2027_is_unknown_until_it_is_published(catalog):
    """Monday 2027-01-04 is unknown without a calendar of 2027, and known with the operator's or an official one."""
    monday = at("2027-01-04T02:00:00Z")
    bare = msgspec.structs.replace(catalog, holidays={})

    assert rate_at(bare, PRO, "USD", monday).band == Band.UNKNOWN
    assert rate_at(bare, PRO, "USD", monday, {2027: frozenset()}).band == Band.PEAK
    assert rate_at(bare, PRO, "USD", monday, {2027: frozenset({date(2027, 1, 4)})}).band == Band.OFF_PEAK


def test_bands_are_those_of_the_sheet(catalog, small):
    """A scheme has peak and off-peak, one price all day is flat, and no price has no band."""
    assert [rate.band for rate in bands(catalog, PRO, "USD", at("2026-11-23T00:00:00Z"))] == [Band.PEAK, Band.OFF_PEAK]
    assert [rate.band for rate in bands(small, "A", "USD", at("2026-01-15T00:00:00Z"))] == [Band.FLAT]
    assert bands(small, "A", "CNY", at("2026-01-15T00:00:00Z")) == ()
    assert rate_at(small, "A", "USD", at("2026-01-15T12:00:00Z")).band is Band.FLAT


@given(at_s=st.floats(at("2026-04-24T00:00:00Z"), at("2030-01-01T00:00:00Z")))
def test_a_rate_is_one_of_the_bands_in_force(catalog, at_s):
    """At every instant a rate's price is that of its band, and unknown is peak with its alternative."""
    for version, sheets in catalog.sheets.items():
        for currency in sheets:
            rate = rate_at(catalog, version, currency, at_s)
            prices = {one.band: one.nanos_per_million for one in bands(catalog, version, currency, at_s)}
            if rate is None:
                assert not prices
                continue
            prices[Band.UNKNOWN] = prices.get(Band.PEAK)
            assert prices[rate.band] == rate.nanos_per_million
            assert (rate.band is Band.UNKNOWN) == (rate.lower_nanos_per_million is not None)


def test_prices_are_printed_in_full(small):
    """A printed price has no exponent and no needless zero, and one line for each kind."""
    rate = rate_at(small, "A", "USD", at("2026-03-02T12:00:00Z"))

    assert dict(zip(KINDS, ("0.1", "1", "2", "2"), strict=True)) == printed(rate)


@pytest.mark.parametrize(
    ("nanos", "text"),
    [(0, "0"), (1, "0.000000001"), (1_500_000_000, "1.5"), (20_000_000_000, "20"), (-250_000_000, "-0.25")],
)
def test_money_is_exact_text(nanos, text):
    """No float stands between the ledger and its reader."""
    assert decimal(nanos) == text
