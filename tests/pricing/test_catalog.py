from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing.given import FACTS, FLASH, FLASH_1017, PRO, SMALL, at, shipped_texts

from proxy.errors import CatalogError
from proxy.pricing.catalog import fingerprint_key, in_force, overdue, parse_catalog
from proxy.pricing.rows import AliasRow, PriceRow

NEXT_PRICE = f"""
[[price]]
id = "again"
versions = ["A"]
currency = "USD"
valid_from = 2026-03-01T00:00:00Z
per_million = {{ input_cache_miss = "1", output = "2" }}
{FACTS}
"""

BROKEN = {
    "an alias of nobody": ("names.toml", 'version = "A"', 'version = "B"', "alias 1 (a, a-too): there is no version B"),
    "a fingerprint of nobody": (
        "names.toml",
        'fp_0123456789"\nversion = "A"',
        'fp_0123456789"\nversion = "B"',
        "fingerprint 1 (fp_0123456789): there is no version B",
    ),
    "an alias older than its version": (
        "names.toml",
        'version = "A"\nvalid_from = 2026-01-01',
        'version = "A"\nvalid_from = 2025-01-01',
        "alias 1 (a, a-too): reaches beyond the life of A",
    ),
    "a name twice in a row": ("names.toml", '"a-too"', '"a"', "alias 1 (a, a): overlaps with"),
    "a price of nobody": ("money.toml", 'versions = ["A"]', 'versions = ["B"]', "price 1 (a-usd-flat): there is no"),
    "a scheme of nobody": ("money.toml", 'scheme = "s"\noff', 'scheme = "t"\noff', "price 2 (a-usd-peak): scheme t"),
    "a scheme that begins late": (
        "money.toml",
        'scheme = "s"\nvalid_from = 2026-02-01T00:00:00Z',
        'scheme = "s"\nvalid_from = 2026-02-01T00:00:01Z',
        "price 2 (a-usd-peak): scheme s has no rule for all of its time",
    ),
    "a scheme that ends early": (
        "money.toml",
        'scheme = "s"\nvalid_from',
        'scheme = "s"\nvalid_to = 2026-03-01T00:00:00Z\nvalid_from',
        "price 2 (a-usd-peak): scheme s has no rule for all of its time",
    ),
    "prices that overlap by a second": (
        "money.toml",
        "valid_to = 2026-02-01T00:00:00Z",
        "valid_to = 2026-02-01T00:00:01Z",
        "money.toml: price 2 (a-usd-peak): overlaps with money.toml: price 1 (a-usd-flat)",
    ),
    "a price id twice": ("money.toml", "a-usd-peak", "a-usd-flat", "price 2 (a-usd-flat): a-usd-flat is there already"),
}


@pytest.mark.parametrize(("file", "old", "new", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_rows_that_contradict_one_another_are_refused(file, old, new, reason):
    """What rows only get wrong together is refused with the file, the row and the reason."""
    broken = SMALL | {file: SMALL[file].replace(old, new, 1)}
    assert broken != SMALL

    with pytest.raises(CatalogError) as refused:
        parse_catalog(broken)

    assert str(refused.value).startswith(f"{file}: ")
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (NEXT_PRICE, "more.toml: price 1 (again): overlaps with money.toml: price 2 (a-usd-peak)"),
        (f'[[version]]\nid = "A"\nvalid_from = 2026-01-01T00:00:00Z\n{FACTS}', "A is there already, as names.toml"),
        (f'[[fingerprint]]\nfingerprint = "fp_0123456789_x"\nversion = "A"\n{FACTS}', "is there already"),
    ],
)
def test_another_file_cannot_say_it_again(table, reason):
    """A second file may add rows and may not contradict the first; a fingerprint's suffix makes no new one."""
    with pytest.raises(CatalogError, match=r"more\.toml") as refused:
        parse_catalog(SMALL | {"more.toml": table})

    assert reason in str(refused.value)


def test_another_currency_stands_beside_the_first():
    """The same time in another currency is no overlap."""
    catalog = parse_catalog(SMALL | {"more.toml": NEXT_PRICE.replace("USD", "CNY")})

    assert {"USD", "CNY"} == set(catalog.sheets["A"])


def test_an_empty_catalog_is_one():
    """No texts, no versions, no prices: everything is unknown and unpriced, and nothing fails."""
    assert parse_catalog({}).sheets == {}
    assert in_force(parse_catalog({}), 0.0) == ()


@given(at_s=st.integers(int(at("2026-04-01T00:00:00Z")), int(at("2028-01-01T00:00:00Z"))))
def test_one_row_at_most_per_instant(catalog, at_s):
    """At any second a name has one version at most, and a version one price at most in a currency."""
    prices = [placed.row for placed in catalog.rows if isinstance(placed.row, PriceRow)]
    for version, currencies in catalog.sheets.items():
        for currency, line in currencies.items():
            rows = [row for row in prices if version in row.versions and currency == row.currency]
            ids = [row.id for row in rows if row.from_s <= at_s < row.to_s]
            sheet = line.at(at_s)
            assert ids == ([] if sheet is None else [sheet.price_id])


@given(at_s=st.integers(int(at("2026-04-01T00:00:00Z")), int(at("2028-01-01T00:00:00Z"))))
def test_a_name_means_one_version_at_most(catalog, at_s):
    """At any second the alias timeline says what reading down the rows says."""
    rows = [placed.row for placed in catalog.rows if isinstance(placed.row, AliasRow)]
    for name, line in catalog.aliases.items():
        meant = [row.version for row in rows if name in row.names and row.from_s <= at_s < row.to_s]
        version = line.at(at_s)
        assert meant == ([] if version is None else [version])


@given(at_s=st.integers(int(at("2026-04-24T00:00:00Z")), int(at("2028-01-01T00:00:00Z"))))
def test_every_version_in_force_has_a_price_in_usd(catalog, at_s):
    """There is no second since the V4 previews in which a name answers and costs nobody knows what."""
    assert all(catalog.sheets[version]["USD"].at(at_s) for version, _ in in_force(catalog, at_s))


def test_what_is_in_force_on_23_november_2026(catalog):
    """Two versions answer, one of them under three names."""
    names = dict(in_force(catalog, at("2026-11-23T12:00:00Z")))

    assert list(names) == [PRO, FLASH_1017]
    assert names[PRO] == ("deepseek-v4-pro",)
    assert {"deepseek-flash", "deepseek-v4-flash", "deepseek-v4-flash-vision-exp"} == set(names[FLASH_1017])


def test_what_is_in_force_changes_with_the_second(catalog):
    """The version behind the three names changes at the published instant, and the old one is gone."""
    assert FLASH in dict(in_force(catalog, at("2026-10-16T23:59:59Z")))
    assert FLASH not in dict(in_force(catalog, at("2026-10-17T00:00:00Z")))


def test_rows_past_their_review_are_named(catalog):
    """`check` hears of rows that still hold and are due, with place and source; ended rows need no second look."""
    now = at("2027-01-01T00:00:00Z")
    named = overdue(catalog, now, date(2027, 1, 1))

    assert overdue(catalog, now, date(2026, 12, 31)) == ()
    assert any("deepseek-v4.1-flash-usd-2026-09-10): was to be reviewed by 2026-12-31" in line for line in named)
    assert not any("2026-04-24" in line for line in overdue(catalog, now, date(2040, 1, 1)))


@pytest.mark.parametrize(
    ("fingerprint", "key"),
    [
        ("fp_a18b46594c_prod0820_fp8_kvcache_20260402", "fp_a18b46594c"),
        ("fp_a18b46594c_prod0425fp8", "fp_a18b46594c"),
        ("fp_a18b46594c", "fp_a18b46594c"),
        ("fp_a18b46594c0", "fp_a18b46594c0"),
        ("fp_Og1AzCtNZz_prod0718_fp8_kvcache", "fp_Og1AzCtNZz_prod0718_fp8_kvcache"),
        ("a26a7955944dc5c60445bff77fac9c8e", "a26a7955944dc5c60445bff77fac9c8e"),
        ("fp_a18", "fp_a18"),
        ("", ""),
    ],
)
def test_the_key_of_a_fingerprint(fingerprint, key):
    """Ten hex digits behind `fp_` and before `_` stand for the weights; every other shape counts whole."""
    assert key == fingerprint_key(fingerprint)


def test_the_shipped_files_name_no_file_of_ours():
    """Every row's source is public."""
    assert not any("/work" in text or "shared" in text for text in shipped_texts().values())
