import pytest
from pricing.given import FACTS

from proxy.errors import CatalogError
from proxy.pricing.rows import PriceSheet, nano_units, read_rows

PRICE = f"""
[[price]]
id = "p"
versions = ["A"]
currency = "USD"
valid_from = 2026-01-01T00:00:00Z
per_million = {{ input_cache_hit = "0.1", input_cache_miss = "1", output = "2" }}
{FACTS}
"""

BROKEN = {
    "a number for a price": ('"0.1"', "0.1", "Expected `str"),
    "a price in words": ('"0.1"', '"cheap"', "matching regex"),
    "a negative price": ('"0.1"', '"-0.1"', "matching regex"),
    "a price finer than a nano-unit": ('"0.1"', '"0.0000000001"', "matching regex"),
    "a misspelt key": ("currency", "curency", "curency"),
    "a misspelt kind": ("input_cache_hit", "cache_hit", "cache_hit"),
    "an instant without zone": ("00:00:00Z", "00:00:00", "timezone"),
    "a fraction of a second": ("00:00:00Z", "00:00:00.5Z", "whole seconds"),
    "an end before the start": ("currency", "valid_to = 2025-01-01T00:00:00Z\ncurrency", "not behind valid_from"),
    "an end at the start": ("currency", "valid_to = 2026-01-01T00:00:00Z\ncurrency", "not behind valid_from"),
    "no source": ('source = "a page"', "", "source"),
    "an unknown confidence": ('"high"', '"total"', "confidence"),
    "a review before the check": ("review_by = 2026-12-31", "review_by = 2025-12-31", "before checked"),
    "no version": ('["A"]', "[]", "versions"),
    "an off-peak price without scheme": ("currency", 'off_peak_factor = "0.5"\ncurrency', "want a scheme"),
    "a scheme without off-peak price": ("currency", 'scheme = "s"\ncurrency', "scheme wants one"),
    "an off-peak price above peak": ("currency", 'scheme = "s"\noff_peak_factor = "1.5"\ncurrency', "dearer"),
    "a factor that leaves a rest": ("currency", 'scheme = "s"\noff_peak_factor = "0.000000001"\ncurrency', "finer"),
}


@pytest.mark.parametrize(("old", "new", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_row_is_refused_with_its_place(old, new, reason):
    """Whatever a row gets wrong, the error names the file, the row and the reason in one line."""
    with pytest.raises(CatalogError) as refused:
        list(read_rows("some.toml", PRICE.replace(old, new, 1)))

    assert str(refused.value).startswith("some.toml: price 1 (p): ")
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[price]\n", "some.toml: not TOML"),
        ("[[prize]]\nid = 1\n", "some.toml: prize: unknown table"),
        ("[price]\nid = 1\n", "some.toml: price: unknown table"),
        ("price = [1]\n", "some.toml: price 1: Expected `object`"),
        (PRICE + '[[fingerprint]]\nfingerprint = "fp_1"\n', "some.toml: fingerprint 1 (fp_1): "),
        ('[[rule]]\nscheme = "s"\npeak_utc = ["1-2"]\n', "some.toml: rule 1 (s): "),
        ('[[rule]]\nscheme = "s"\nvalid_from = 2026-01-01T00:00:00Z\npeak_utc = ["24:00-25:00"]\n', "matching regex"),
    ],
)
def test_a_broken_file_is_refused_with_its_name(text, reason):
    """Broken TOML, a table nobody knows and a row of the wrong shape are found where they stand."""
    with pytest.raises(CatalogError) as refused:
        list(read_rows("some.toml", text))

    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("price", "nanos"), [("0.003625", 3_625_000), ("27", 27 * 10**9), ("0.000000001", 1), ("0", 0)]
)
def test_prices_are_exact(price, nanos):
    """A printed price becomes whole nano-units, with nothing lost on the way."""
    assert nanos == nano_units(price)


def test_without_a_price_for_hits_a_hit_is_a_miss():
    """Before the cache there was one input price; output has one price for reasoning and answer."""
    sheet = PriceSheet(input_cache_miss="0.14", output="0.28")

    assert sheet.nanos() == (140_000_000, 140_000_000, 280_000_000, 280_000_000)


def test_a_row_says_where_it_stands():
    """A row that was read carries its file, its number and its name for later errors."""
    first, second = read_rows("some.toml", PRICE + PRICE.replace('"p"', '"q"'))

    assert [first.where, second.where] == ["some.toml: price 1 (p)", "some.toml: price 2 (q)"]
