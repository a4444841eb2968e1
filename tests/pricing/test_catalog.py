from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pricing.given import FACTS, FLASH, FLASH_1017, PRO, SMALL, at, shipped_texts

from proxy.errors import CatalogError
from proxy.pricing.catalog import fingerprint_key, in_force, overdue, parse_catalog
from proxy.pricing.rows import AliasRow, ForVersions, PriceRow
from proxy.pricing.tariff import sheet_at
from proxy.usage import CURRENCIES

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


ANY_INSTANT = st.integers(int(at("2024-05-07T00:00:00Z")), int(at("2028-01-01T00:00:00Z")))


@given(at_s=ANY_INSTANT)
def test_every_instant_of_a_versions_life_has_one_row_per_currency(catalog, at_s):
    """At any second, under any name it answered to: one price, or a stretch that is said to be without; never two, never none."""
    rows = [placed.row for placed in catalog.rows if isinstance(placed.row, ForVersions)]
    for version in catalog.versions.values():
        for currency in CURRENCIES:
            for name in names_of(catalog, version.id, at_s) or [""]:
                fitting = [row for row in rows if holds(row, version.id, currency, name, at_s)]
                lives = version.from_s <= at_s < version.to_s
                assert len(fitting) == 1 or (not lives and not fitting), (version.id, currency, name)
                sheet = sheet_at(catalog, version.id, currency, at_s, model=name)
                assert [row.id for row in fitting if isinstance(row, PriceRow)] == ([sheet.price_id] if sheet else [])


def names_of(catalog, version, at_s):
    """The exact names under which a version answered at an instant."""
    return [name for name, meanings in catalog.aliases.items() if meanings.at(at_s) == version]


def holds(row, version, currency, name, at_s):
    in_time = row.from_s <= at_s < row.to_s
    return in_time and version in row.versions and row.currency == currency and (not row.names or name in row.names)


@given(at_s=ANY_INSTANT)
def test_a_name_means_one_version_at_most(catalog, at_s):
    """At any second the alias timeline says what reading down the rows says."""
    rows = [placed.row for placed in catalog.rows if isinstance(placed.row, AliasRow) and not placed.row.api]
    for name, line in catalog.aliases.items():
        meant = [row.version for row in rows if name in row.names and row.from_s <= at_s < row.to_s]
        version = line.at(at_s)
        assert meant == ([] if version is None else [version])


@given(at_s=ANY_INSTANT)
def test_every_version_in_force_has_a_price_in_usd(catalog, at_s):
    """There is no second since V2 in which a name answers and costs nobody knows what."""
    for version, names in in_force(catalog, at_s):
        assert all(sheet_at(catalog, version, "USD", at_s, model=name) for name in names)


@pytest.mark.parametrize(
    "row",
    [
        'names = ["a*b"]\nversion = "A"\nvalid_from = 2026-01-01T00:00:00Z',
        'names = ["*a"]\nversion = "A"\nvalid_from = 2026-01-01T00:00:00Z',
    ],
)
def test_a_star_stands_only_at_the_end(row):
    """Anything else would be a language."""
    with pytest.raises(CatalogError, match="only at the end"):
        parse_catalog(SMALL | {"more.toml": f"[[alias]]\n{row}\n{FACTS}"})


def test_a_price_of_a_name_and_one_of_all_names_do_not_stand_side_by_side():
    """Which of the two held would be a guess; under different names they may."""
    own = NEXT_PRICE.replace('"A"', '"B"').replace('"again"', '"own"')
    version = f'[[version]]\nid = "B"\nvalid_from = 2026-01-01T00:00:00Z\n{FACTS}'
    named = own.replace('currency = "USD"', 'currency = "USD"\nnames = ["b"]')
    other = own.replace('currency = "USD"', 'currency = "USD"\nnames = ["c"]').replace('"own"', '"other"')
    parse_catalog(SMALL | {"more.toml": version + named, "other.toml": other})

    with pytest.raises(CatalogError, match="overlaps"):
        parse_catalog(SMALL | {"more.toml": version + named, "other.toml": own.replace('"own"', '"other"')})


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
