"""One row of the catalog's TOML as typed data: its keys, and everything a row can get wrong by itself.

What several rows can only get wrong together (overlaps, unknown names) is the business of `catalog`.
A key nobody knows is refused, because a misspelt `valid_to` would be a price for ever. Prices are strings in the file,
because a TOML float has lost the printed figure before anybody could look at it. Instants carry their zone and are whole
seconds, because that is what DeepSeek publishes.
"""

import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any, Final, Generic, Literal, TypeVar

import msgspec
from msgspec import Meta

from proxy.errors import CatalogError
from proxy.pricing.timeline import OPEN_END

Name = Annotated[str, Meta(min_length=1, max_length=128)]
Instant = Annotated[datetime, Meta(tz=True)]
Price = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,5})(\.[0-9]{1,9})?$")]
Window = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$")]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

NANOS: Final = 10**9
DAY_SECONDS: Final = 86_400


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every row has to say about itself: who said so, how sure that is, and when to look again."""

    source: Annotated[str, Meta(min_length=1)]
    confidence: Literal["high", "medium", "low"]
    checked: date
    review_by: date
    note: str = ""

    def __post_init__(self) -> None:
        """Refuses (ValueError) a row that was due for review before it was checked."""
        if self.review_by < self.checked:
            raise ValueError("review_by lies before checked")

    @property
    def title(self) -> str:
        """What the row is called in an error."""
        raise NotImplementedError


class DatedRow(Row, frozen=True, kw_only=True):
    """A row that holds from `valid_from` (inclusive) to `valid_to` (exclusive); without `valid_to` it still holds."""

    valid_from: Instant
    valid_to: Instant | None = None

    def __post_init__(self) -> None:
        """Refuses (ValueError) fractions of seconds and an end that is not behind the beginning."""
        super().__post_init__()
        if self.valid_from.microsecond or (self.valid_to and self.valid_to.microsecond):
            raise ValueError("instants are whole seconds")
        if self.valid_to is not None and self.valid_to <= self.valid_from:
            raise ValueError("valid_to is not behind valid_from")

    @property
    def from_s(self) -> int:
        """The first second, since the epoch."""
        return int(self.valid_from.timestamp())

    @property
    def to_s(self) -> float:
        """The second behind the last, since the epoch; infinite where there is none."""
        return OPEN_END if self.valid_to is None else int(self.valid_to.timestamp())


class VersionRow(DatedRow, frozen=True, kw_only=True):
    """A version and its life: the time in which DeepSeek's own API answered with it. A `+` would begin a revision."""

    id: Annotated[str, Meta(pattern=r"^[^+]{1,128}$")]

    @property
    def title(self) -> str:
        """The version's id."""
        return self.id


class AliasRow(DatedRow, frozen=True, kw_only=True):
    """Names, requested or served, that meant one version for a time; with `api` only in that dialect.

    A name may end in `*`, which stands for any rest.
    """

    names: Annotated[tuple[Name, ...], Meta(min_length=1)]
    version: Name
    api: Literal["", "chat", "fim", "anthropic", "responses"] = ""

    def __post_init__(self) -> None:
        """Refuses (ValueError) a `*` anywhere but at the end."""
        super().__post_init__()
        if any("*" in name[:-1] for name in self.names):
            raise ValueError("a * may stand only at the end of a name")

    @property
    def title(self) -> str:
        """The names."""
        return ", ".join(self.names)


class FingerprintRow(Row, frozen=True, kw_only=True):
    """A `system_fingerprint` that tells the version, without what stands behind its 10-hex prefix; days of its sightings."""

    fingerprint: Name
    version: Name
    first_seen: date | None = None
    last_seen: date | None = None

    def __post_init__(self) -> None:
        """Refuses (ValueError) one sighting without the other, and a last one before the first."""
        super().__post_init__()
        if (self.first_seen is None) != (self.last_seen is None):
            raise ValueError("first_seen and last_seen come together")
        if self.first_seen is not None and self.last_seen is not None and self.last_seen < self.first_seen:
            raise ValueError("last_seen lies before first_seen")

    @property
    def title(self) -> str:
        """The fingerprint."""
        return self.fingerprint


class RuleRow(DatedRow, frozen=True, kw_only=True):
    """When a scheme's peak price applied, for a time: windows in UTC on weekdays counted in Asia/Shanghai.

    A window whose end is not behind its beginning runs over midnight, so `00:00-00:00` is the whole day.
    """

    scheme: Name
    peak_utc: Annotated[tuple[Window, ...], Meta(min_length=1)]
    weekdays: Annotated[tuple[Weekday, ...], Meta(min_length=1)]
    except_public_holidays: bool

    @property
    def title(self) -> str:
        """The scheme."""
        return self.scheme


class PriceSheet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Prices of one million tokens as printed. Without a price for cache hits there was no cache: a hit is a miss."""

    input_cache_miss: Price
    output: Price
    input_cache_hit: Price | None = None

    def nanos(self) -> tuple[int, int, int, int]:
        """Nano-units per million tokens in the order of `usage.KINDS`; reasoning costs what an answer costs."""
        hit = nano_units(self.input_cache_miss if self.input_cache_hit is None else self.input_cache_hit)
        output = nano_units(self.output)
        return (hit, nano_units(self.input_cache_miss), output, output)


class ForVersions(DatedRow, frozen=True, kw_only=True):
    """What holds of some versions in one currency; with `names` only where one of these was asked for.

    DeepSeek prices names: in 2025 one version cost less as deepseek-chat than as deepseek-reasoner. `upstreams` are the hosts,
    by their names in meter.toml, whose price it is; without any it is DeepSeek's own.
    """

    versions: Annotated[tuple[Name, ...], Meta(min_length=1)]
    currency: Annotated[str, Meta(pattern="^[A-Z]{3}$")]
    names: tuple[Name, ...] = ()
    upstreams: tuple[Name, ...] = ()

    @property
    def title(self) -> str:
        """The versions and the currency."""
        return f"{', '.join(self.versions)} in {self.currency}"


class UnpricedRow(ForVersions, frozen=True, kw_only=True):
    """A stretch of which nobody could find the price: said, so that a gap in the catalog is never an oversight."""


class PriceRow(ForVersions, frozen=True, kw_only=True):
    """What some versions cost in one currency: one price all day, or the peak price of a scheme and its off-peak half."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{0,127}$")]
    per_million: PriceSheet
    scheme: Name | None = None
    off_peak: PriceSheet | None = None
    off_peak_factor: Price | None = None

    def __post_init__(self) -> None:
        """Refuses (ValueError) half a scheme, and an off-peak price above the peak price or finer than a nano-unit."""
        super().__post_init__()
        given = (self.off_peak is not None) + (self.off_peak_factor is not None)
        if given != (self.scheme is not None):
            raise ValueError("scheme wants one of off_peak and off_peak_factor, and they want a scheme")
        lower = self.off_peak_nanos()
        if lower and any(low > high for low, high in zip(lower, self.per_million.nanos(), strict=True)):
            raise ValueError("off-peak is dearer than peak")

    @property
    def title(self) -> str:
        """The price's id."""
        return self.id

    def off_peak_nanos(self) -> tuple[int, int, int, int] | None:
        """The off-peak prices as `PriceSheet.nanos`; None where one price holds all day."""
        if self.off_peak is not None:
            return self.off_peak.nanos()
        if self.off_peak_factor is None:
            return None
        hit, miss, reasoning, answer = (_part(nanos, self.off_peak_factor) for nanos in self.per_million.nanos())
        return (hit, miss, reasoning, answer)


def nano_units(price: str) -> int:
    """A printed price in nano-units. Exact: a `Price` has at most nine decimals."""
    return int(Decimal(price) * NANOS)


def _part(nanos: int, factor: str) -> int:
    part = nanos * Decimal(factor)
    if part != int(part):
        raise ValueError("off_peak_factor gives a price finer than a nano-unit; print off_peak instead")
    return int(part)


RowType_co = TypeVar("RowType_co", bound=Row, covariant=True)


class Placed(msgspec.Struct, Generic[RowType_co], frozen=True):
    """A row and where it stands, for errors: `prices.toml: price 3 (deepseek-v4-pro-usd-2026-08-16)`.

    `own` is True for a row of the operator's, which goes before those that are shipped.
    """

    where: str
    row: RowType_co
    own: bool = False


ROW_TYPES: Final[Mapping[str, type[Row]]] = {
    "version": VersionRow,
    "alias": AliasRow,
    "fingerprint": FingerprintRow,
    "rule": RuleRow,
    "price": PriceRow,
    "unpriced": UnpricedRow,
}
"""The tables a file may hold, `[[version]]` and so on. Any file may hold any of them."""

HOLIDAYS: Final = "holidays"
"""One table more in the operator's file: public holidays of years for which nobody has published any."""


def read_rows(file: str, text: str, *, own: bool = False) -> Iterator[Placed[Row]]:
    """The rows of one file. Raises CatalogError with file, row and reason at the first that cannot be used."""
    for kind, entries in _tables(file, text).items():
        if kind == HOLIDAYS and own:
            continue
        if kind not in ROW_TYPES or not isinstance(entries, list):
            raise CatalogError(f"{file}: {kind}: unknown table; expected [[{']], [['.join(ROW_TYPES)}]]")
        for number, entry in enumerate(entries, start=1):
            yield _row(f"{file}: {kind} {number}", ROW_TYPES[kind], entry, own=own)


def read_holidays(file: str, text: str) -> dict[int, frozenset[date]]:
    """The operator's own calendars, `[holidays]` with a list of dates per year (Asia/Shanghai). Raises CatalogError."""
    try:
        years = msgspec.convert(_tables(file, text).get(HOLIDAYS, {}), dict[str, list[date]])
        found = {int(year): frozenset(days) for year, days in years.items()}
    except (msgspec.ValidationError, ValueError) as error:
        raise CatalogError(f"{file}: {HOLIDAYS}: expected dates per year, 2027 = [2027-01-01, ...]: {error}") from error
    for year, days in found.items():
        if any(day.year != year for day in days):
            raise CatalogError(f"{file}: {HOLIDAYS}: a day of another year stands under {year}")
    return found


def _tables(file: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CatalogError(f"{file}: not TOML: {error}") from error


def _row(where: str, row_type: type[Row], entry: Any, *, own: bool) -> Placed[Row]:
    try:
        row = msgspec.convert(entry, row_type)
    except msgspec.ValidationError as error:
        raise CatalogError(f"{where}{_called(entry)}: {error}") from error
    return Placed(where=f"{where} ({row.title})", row=row, own=own)


def _called(entry: Any) -> str:
    """What a row that could not be read calls itself, so that it is found in a long file."""
    name = entry.get("id") or entry.get("fingerprint") or entry.get("scheme") if isinstance(entry, dict) else None
    return f" ({name})" if isinstance(name, str) else ""
