"""Costs by the clock: exact over an hour, a month, and whatever lies between."""

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import SettingsError
from proxy.pricing.fixed import FixedCost, fixed_costs, month_around
from proxy.settings import load_settings

NANO = 10**9
SHANGHAI, BERLIN = ZoneInfo("Asia/Shanghai"), ZoneInfo("Europe/Berlin")
HOURLY = FixedCost("default", "V", "gpu", nanos_per_hour=20 * NANO)
MONTHLY = FixedCost("default", "V", "storage", nanos_per_month=73 * NANO)


def at(text, zone):
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize("month", range(1, 13))
@pytest.mark.parametrize("zone", [SHANGHAI, BERLIN])
def test_a_month_costs_what_was_stated(month, zone):
    """Whatever its length, also where clocks change."""
    start_s, end_s = month_around(at(f"2026-{month:02d}-15", zone), zone)

    assert MONTHLY.nanos_between(start_s, end_s, zone) == 73 * NANO
    assert MONTHLY.nanos_in_hour(start_s, zone) == pytest.approx(73 * NANO * 3600 / (end_s - start_s), abs=1)


def test_an_hour_costs_what_was_stated():
    """By the hour there is no month."""
    assert HOURLY.nanos_between(1000.0, 4600.0, BERLIN) == 20 * NANO
    assert HOURLY.nanos_in_hour(1000.0, BERLIN) == 20 * NANO


@given(st.integers(0, 10**8), st.integers(0, 10**8), st.integers(0, 10**8))
def test_stretches_add_up(first, second, third):
    """Cut anywhere, over years: the parts are the whole, but for their own rounding."""
    a, b, c = sorted(1_700_000_000.0 + one for one in (first, second, third))
    parts = MONTHLY.nanos_between(a, b, BERLIN) + MONTHLY.nanos_between(b, c, BERLIN)

    assert abs(parts - MONTHLY.nanos_between(a, c, BERLIN)) <= 1


def settings(text):
    return load_settings(toml_text=text)


def test_the_settings_name_items_and_where_they_run():
    """Counted times their number; the host is that of the version's route, unless it is said."""
    found = fixed_costs(
        settings(
            """
            [[upstreams]]
            name = "own"
            url = "http://127.0.0.1:9"
            models = ["my-r1"]
            version = "R"
            [versions.R.fixed]
            gpu = { usd_per_hour = 0.1, count = 3 }
            validation = { usd_per_month = 1200.5 }
            [versions.S.fixed]
            storage = { usd_per_month = 1 }
            [versions.T.fixed]
            upstream = "own"
            upkeep = { usd_per_month = 2 }
            """
        )
    )

    assert found == (
        FixedCost("own", "R", "gpu", nanos_per_hour=3 * NANO // 10),
        FixedCost("own", "R", "validation", nanos_per_month=12005 * NANO // 10),
        FixedCost("default", "S", "storage", nanos_per_month=NANO),
        FixedCost("own", "T", "upkeep", nanos_per_month=2 * NANO),
    )


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[versions.R.fixed]\ngpu = { usd_per_hour = 1, usd_per_month = 1 }", "one of"),
        ("[versions.R.fixed]\ngpu = {}", "one of"),
        ("[versions.R.fixed]\nrent = { usd_per_hour = 1 }", "rent"),
        ("[versions.R.fixed]\ngpu = { usd_per_hour = -1 }", "usd_per_hour"),
        ('[versions.R.fixed]\nupstream = "nowhere"\n', "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, word):
    """With the place and what was expected."""
    with pytest.raises(SettingsError, match=word):
        settings(text)
