"""What `prices` and `check` say of the catalog: the price in force and why, and what somebody should look at. Plain values out."""

from datetime import date, datetime
from typing import Any, Final

from proxy.pricing.catalog import Catalog, overdue
from proxy.pricing.tariff import printed, rate_at, sheet_at
from proxy.pricing.versions import resolve

ANNOUNCED_IN_MONTH: Final = 11
"""The State Council announces the next year's holidays in November."""


def price_row(catalog: Catalog, at: datetime, *, model: str, version: str, currency: str) -> dict[str, Any]:
    """The price of a model or version at an instant; where there is none, also `why`."""
    at_s = at.timestamp()
    found = resolve(catalog, upstream="default", requested=model, served="", fingerprint="", at_s=at_s)
    named = version or found.version
    rate = rate_at(catalog, named, currency, at_s, model=model)
    row = {
        "at": at.isoformat().replace("+00:00", "Z"),
        "model": model,
        "version": named,
        "currency": currency,
        "band": rate.band.value if rate else None,
        "price_id": rate.price_id if rate else None,
        "per_million_tokens": dict(printed(rate)) if rate else None,
        "source": rate.source if rate else None,
        "review_by": rate.review_by.isoformat() if rate else None,
    }
    return row if rate else row | {"why": why_unpriced(catalog, named, currency, at_s, model)}


def why_unpriced(catalog: Catalog, version: str, currency: str, at_s: float, model: str) -> str:
    """In a sentence: what is missing, and what would help."""
    if version not in catalog.versions:
        return f"{version} is no version of the catalog; [pricing] catalog_file can name it and its price"
    by_name = catalog.sheets.get(version, {}).get(currency, {})
    own = [name for name in by_name if name and sheet_at(catalog, version, currency, at_s, name)]
    if own and model not in own:
        return f"at that time {version} was priced by name: give --model {' or '.join(sorted(own))}"
    return f"no {currency} price of {version} is known for that instant"


def to_look_at(catalog: Catalog, now: datetime) -> list[str]:
    """Rows past their review, and a year without holidays that has begun or is near."""
    found = [f"catalog: {line}" for line in overdue(catalog, now.timestamp(), now.date())]
    return found + [_no_holidays(year) for year in _years_wanted(now.date()) if year not in catalog.holidays]


def _years_wanted(today: date) -> list[int]:
    """This year, and the next one once its calendar is to be expected."""
    return [today.year, today.year + 1] if today.month > ANNOUNCED_IN_MONTH else [today.year]


def _no_holidays(year: int) -> str:
    return (
        f"holidays: nobody has published {year}; weekdays inside a peak window are charged at the peak price and counted as "
        f"uncertain. Add [holidays] {year} = [dates] to [pricing] catalog_file, or a newer chinesecalendar"
    )
