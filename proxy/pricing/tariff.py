"""Which price was in force: version, currency and instant in, one dated price and its band out.

Only one thing can be unknown here: whether a weekday inside a peak window was a public holiday, in a year whose calendar
nobody has published or configured. Such an instant is charged at the peak price and carries the off-peak price beside
it, so that the difference can be counted as uncertain instead of being guessed away.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Final, NamedTuple

import msgspec

from proxy.pricing.calendar import HolidayCalendar, holiday, shanghai_day
from proxy.pricing.catalog import Catalog, PeakRule, Sheet, Sheets, in_force
from proxy.pricing.rows import DAY_SECONDS, NANOS
from proxy.settings import DEFAULT_UPSTREAM
from proxy.usage import KINDS, Band, Kind

SHANGHAI_MIDNIGHT_S: Final = 16 * 3600
"""In seconds of the UTC day."""

NO_HOLIDAYS: Final[HolidayCalendar] = MappingProxyType({})


class Seller(NamedTuple):
    """Whose prices hold: those the catalog has for a host by its name, and DeepSeek's own where the host follows them."""

    name: str = ""
    follows_deepseek: bool = True


DEEPSEEK: Final = Seller()
_NO_SHEETS: Final[Mapping[str, Sheets]] = MappingProxyType({})


class Rate(msgspec.Struct, frozen=True):
    """A price in force: nano-units of `currency` per million tokens, in the order of `usage.KINDS`.

    `lower_nanos_per_million` is the off-peak alternative where the band is unknown, `off_peak_nanos_per_million` where it is
    the peak; else None. `price_id` names the published price and stays the same in all its bands.
    """

    version: str
    currency: str
    price_id: str
    band: Band
    nanos_per_million: tuple[int, int, int, int]
    lower_nanos_per_million: tuple[int, int, int, int] | None
    source: str
    review_by: date
    off_peak_nanos_per_million: tuple[int, int, int, int] | None = None


def rate_at(
    catalog: Catalog,
    version: str,
    currency: str,
    at_s: float,
    holidays: HolidayCalendar = NO_HOLIDAYS,
    *,
    model: str = "",
    seller: Seller = DEEPSEEK,
) -> Rate | None:
    """The rate at an instant (seconds since the epoch); None where no price is known, which is not a price of zero.

    `holidays` holds the operator's own calendars per year and goes before the official ones. `model` is the name that was
    asked for: in 2025 it decided the price.
    """
    sheet = sheet_at(catalog, version, currency, at_s, model=model, seller=seller)
    if sheet is None:
        return None
    return _rate(version, currency, sheet, _band(sheet.rule, at_s, holidays, catalog.holidays))


def dearest_prices(
    catalog: Catalog,
    version: str,
    currency: str,
    span_s: tuple[float, float],
    holidays: HolidayCalendar = NO_HOLIDAYS,
    *,
    model: str = "",
    seller: Seller = DEEPSEEK,
) -> tuple[int, int, int, int] | None:
    """The highest price of each kind (nano-units per million tokens) from one instant to another; None where one is not known.

    Prices change at borders and nowhere else, so those are looked at, with both ends.
    """
    first_s, last_s = span_s
    borders = _borders(catalog, version, currency, span_s, seller)
    instants = {first_s, last_s, *(at_s for at_s in borders if first_s < at_s < last_s)}
    rates = [rate_at(catalog, version, currency, at_s, holidays, model=model, seller=seller) for at_s in instants]
    known = [rate.nanos_per_million for rate in rates if rate is not None]
    if len(known) < len(rates):
        return None
    hit, miss, reasoning, answer = (max(prices) for prices in zip(*known, strict=True))
    return hit, miss, reasoning, answer


def _borders(
    catalog: Catalog, version: str, currency: str, span_s: tuple[float, float], seller: Seller
) -> Iterator[float]:
    """Where a price may change around a time: a sheet begins or ends, a window does, the day of Shanghai does."""
    first_s, last_s = span_s
    days = [day * DAY_SECONDS for day in range(int(first_s) // DAY_SECONDS, int(last_s) // DAY_SECONDS + 1)]
    yield from (day + SHANGHAI_MIDNIGHT_S for day in days)
    timelines = (
        prices for sheets in price_lists(catalog, version, seller) for prices in sheets.get(currency, {}).values()
    )
    for span in (span for prices in timelines for span in prices.spans):
        if span.to_s > first_s and span.from_s <= last_s:
            yield from (span.from_s, span.to_s)
            windows = span.value.rule.windows if span.value is not None and span.value.rule is not None else ()
            yield from (day + at_s for day in days for window in windows for at_s in window)


def bands(
    catalog: Catalog, version: str, currency: str, at_s: float, *, model: str = "", seller: Seller = DEEPSEEK
) -> tuple[Rate, ...]:
    """The rates of all bands in force at an instant: flat, or peak and off-peak; none where no price is known."""
    sheet = sheet_at(catalog, version, currency, at_s, model=model, seller=seller)
    if sheet is None:
        return ()
    names = (Band.FLAT,) if sheet.rule is None else (Band.PEAK, Band.OFF_PEAK)
    return tuple(_rate(version, currency, sheet, band) for band in names)


def currencies(catalog: Catalog, version: str, seller: Seller = DEEPSEEK) -> tuple[str, ...]:
    """The currencies in which a version has, or had, a price with a seller."""
    found = (
        currency
        for sheets in price_lists(catalog, version, seller)
        for currency, by_name in sheets.items()
        if any(span.value is not None for prices in by_name.values() for span in prices.spans)
    )
    return tuple(dict.fromkeys(found))


def versions_on(catalog: Catalog, seller: Seller, at_s: float, routed: Iterable[str] = ()) -> tuple[str, ...]:
    """The versions of which a host may have a price to show.

    Those routed to it, those it has prices of its own for, and on the default host those that DeepSeek's names mean.
    """
    own = catalog.own_sheets.get(seller.name, {})
    meant = [version for version, _ in in_force(catalog, at_s)] if seller.name in ("", DEFAULT_UPSTREAM) else []
    return tuple(dict.fromkeys((*meant, *routed, *own)))


def sheet_at(
    catalog: Catalog, version: str, currency: str, at_s: float, *, model: str = "", seller: Seller = DEEPSEEK
) -> Sheet | None:
    """The price sheet in force, with its rule and before any question about the hour."""
    for sheets in price_lists(catalog, version, seller):
        by_name = sheets.get(currency, {})
        prices = by_name.get(model) or by_name.get("")
        span = None if prices is None else prices.span_at(at_s)
        if span is not None:  # also one that says that nobody knows: no other list knows better
            return span.value
    return None


def price_lists(catalog: Catalog, version: str, seller: Seller) -> tuple[Mapping[str, Sheets], ...]:
    """The price lists that hold for a version with a seller, by currency: its own, then DeepSeek's where that is followed."""
    public = catalog.sheets.get(version, _NO_SHEETS)
    if not catalog.own_sheets:
        return (public,) if seller.follows_deepseek else ()
    own = catalog.own_sheets.get(seller.name, {}).get(version, _NO_SHEETS)
    return (own, public) if seller.follows_deepseek else (own,)


def printed(rate: Rate) -> Mapping[Kind, str]:
    """Prices of one million tokens as decimal strings, `0.006`, by kind."""
    return {kind: decimal(nanos) for kind, nanos in zip(KINDS, rate.nanos_per_million, strict=True)}


def decimal(nanos: int) -> str:
    """Nano-units as a decimal number, without needless zeros: `0.006`."""
    text = f"{Decimal(nanos) / NANOS:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _band(rule: PeakRule | None, at_s: float, *calendars: HolidayCalendar) -> Band:
    """The band. The holiday is asked for last, so that only an instant it could change can come out as unknown."""
    if rule is None:
        return Band.FLAT
    if not _inside(rule.windows, at_s % DAY_SECONDS):
        return Band.OFF_PEAK
    day = shanghai_day(at_s)
    if day.weekday() not in rule.weekdays:
        return Band.OFF_PEAK
    free = rule.except_public_holidays and holiday(day, *calendars)
    return Band.UNKNOWN if free is None else Band.OFF_PEAK if free else Band.PEAK


def _inside(windows: tuple[tuple[int, int], ...], second: float) -> bool:
    # A loop, because a generator inside `any` takes twice the time, and this is asked twice per exchange.
    for start, end in windows:  # noqa: SIM110 - see above
        if start <= second < end:
            return True
    return False


def _rate(version: str, currency: str, sheet: Sheet, band: Band) -> Rate:
    lower = sheet.off_peak_nanos_per_million
    return Rate(
        version=version,
        currency=currency,
        price_id=sheet.price_id,
        band=band,
        nanos_per_million=lower if lower is not None and band is Band.OFF_PEAK else sheet.nanos_per_million,
        lower_nanos_per_million=lower if band is Band.UNKNOWN else None,
        source=sheet.source,
        review_by=sheet.review_by,
        off_peak_nanos_per_million=lower if band is Band.PEAK else None,
    )
