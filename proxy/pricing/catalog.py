"""All rows together: checked against one another, and indexed for the questions asked once per exchange.

Texts come in, a frozen `Catalog` comes out; reading files is the caller's business. What one row can get wrong alone is
checked in `rows`. A catalog is never half right: the first error refuses it whole, so that a running proxy can keep the
one it has.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec

from proxy.errors import CatalogError
from proxy.pricing.calendar import HolidayCalendar, official_holidays
from proxy.pricing.rows import (
    DAY_SECONDS,
    AliasRow,
    DatedRow,
    FingerprintRow,
    ForVersions,
    Placed,
    PriceRow,
    Row,
    RuleRow,
    UnpricedRow,
    VersionRow,
    read_holidays,
    read_rows,
)
from proxy.pricing.timeline import Span, Timeline, timeline, without

CATALOG_FILES: Final = ("versions.toml", "prices.toml")
"""The files beside this module, for whoever reads them."""

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
ANY_REST: Final = "*"
FINGERPRINT_PREFIX: Final = len("fp_") + 10

NO_TEXTS: Final[Mapping[str, str]] = MappingProxyType({})

T = TypeVar("T")
RowType = TypeVar("RowType", bound=Row)


class PeakRule(msgspec.Struct, frozen=True):
    """When the peak price applies: seconds of the UTC day, weekdays (Monday is 0) and holidays of Asia/Shanghai."""

    windows: tuple[tuple[int, int], ...]
    weekdays: frozenset[int]
    except_public_holidays: bool


class Sheet(msgspec.Struct, frozen=True):
    """One price under one rule. `nanos_per_million` is the peak price, or the only one where `rule` is None."""

    price_id: str
    nanos_per_million: tuple[int, int, int, int]
    off_peak_nanos_per_million: tuple[int, int, int, int] | None
    rule: PeakRule | None
    source: str
    review_by: date


class Pattern(msgspec.Struct, frozen=True):
    """What every name with a beginning means, in one dialect or (`api` empty) in all."""

    api: str
    beginning: str
    meanings: Timeline[str]


Sheets = Mapping[str, Timeline[Sheet | None]]
"""Prices in the order of time by the name that was asked for, and under `""` for every other; None is a stretch without."""


class Catalog(msgspec.Struct, frozen=True):
    """Versions and tariffs. `sheets` goes from version and currency to the prices; `patterns` has the longest first.

    `own_sheets` are the prices that hosts have of their own, by the host's name.
    """

    versions: Mapping[str, VersionRow]
    aliases: Mapping[str, Timeline[str]]
    patterns: tuple[Pattern, ...]
    fingerprints: Mapping[str, str]
    sheets: Mapping[str, Mapping[str, Sheets]]
    own_sheets: Mapping[str, Mapping[str, Mapping[str, Sheets]]]
    holidays: HolidayCalendar
    rows: tuple[Placed[Row], ...]

    def __repr__(self) -> str:
        return f"<Catalog of {len(self.versions)} versions in {len(self.rows)} rows>"


def parse_catalog(texts: Mapping[str, str], own: Mapping[str, str] = NO_TEXTS) -> Catalog:
    """The catalog of some TOML texts, by the names of their files.

    `own` are the operator's: a version, price id or fingerprint of theirs takes the place of the shipped one, and what
    they say of a name, a price or a scheme goes before it for as long as it holds. Holidays of theirs go before official ones.

    Raises CatalogError with the file, the row and the reason: not TOML, an unknown table or key, a value of the wrong
    kind, two rows of one id, two that hold at once, a name that no version has, a price whose scheme has no rule.
    """
    theirs = [row for file, text in own.items() for row in read_rows(file, text, own=True)]
    shipped = [row for file, text in texts.items() for row in read_rows(file, text)]
    rows = (*_not_replaced(shipped, theirs), *theirs)
    versions = _unique((placed.row.id, placed) for placed in _of(rows, VersionRow))
    _unique((placed.row.id, placed) for placed in _of(rows, PriceRow))
    aliases = _of(rows, AliasRow)
    priced: list[Placed[ForVersions]] = [*_of(rows, PriceRow), *_of(rows, UnpricedRow)]
    rules = _of(rows, RuleRow)
    hosts = sorted({name for placed in priced for name in placed.row.upstreams})
    holidays = {year: days for file, text in own.items() for year, days in read_holidays(file, text).items()}
    return Catalog(
        versions={name: placed.row for name, placed in versions.items()},
        aliases=_aliases([placed for placed in aliases if not placed.row.api], versions),
        patterns=_patterns(aliases, versions),
        fingerprints=_fingerprints(_of(rows, FingerprintRow), versions),
        sheets=_sheets([placed for placed in priced if not placed.row.upstreams], rules, versions),
        own_sheets={
            host: _sheets([placed for placed in priced if host in placed.row.upstreams], rules, versions)
            for host in hosts
        },
        holidays={**official_holidays(), **holidays},
        rows=rows,
    )


def in_force(catalog: Catalog, at_s: float) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The versions that answer under some name at an instant, each with its names, in the order of the catalog."""
    names: defaultdict[str, list[str]] = defaultdict(list)
    for name, meanings in catalog.aliases.items():
        version = meanings.at(at_s)
        if version is not None:
            names[version].append(name)
    return tuple((version, tuple(names[version])) for version in catalog.versions if version in names)


def overdue(catalog: Catalog, at_s: float, day: date) -> tuple[str, ...]:
    """Rows that still hold at an instant and should have been looked at again before `day`, each with its place."""
    return tuple(
        f"{placed.where}: was to be reviewed by {placed.row.review_by}, {placed.row.source}"
        for placed in catalog.rows
        if placed.row.review_by < day and not (isinstance(placed.row, DatedRow) and placed.row.to_s <= at_s)
    )


def fingerprint_key(fingerprint: str) -> str:
    """The part of a fingerprint that follows the weights.

    `fp_` and ten hex digits stand for it, whatever `_prod...` follows (one prefix kept its model through several
    suffixes in recordings of 2025); every other shape, such as the bare 32 hex digits since 2026-08-13, counts whole.
    """
    head = fingerprint[:FINGERPRINT_PREFIX]
    prefixed = fingerprint.startswith("fp_") and fingerprint[FINGERPRINT_PREFIX : FINGERPRINT_PREFIX + 1] == "_"
    return head if prefixed and not head[3:].strip("0123456789abcdef") else fingerprint


def _not_replaced(shipped: Sequence[Placed[Row]], theirs: Sequence[Placed[Row]]) -> list[Placed[Row]]:
    """The shipped rows without those whose identity a row of the operator's has."""
    taken = {_identity(placed.row) for placed in theirs} - {None}
    return [placed for placed in shipped if _identity(placed.row) not in taken]


def _identity(row: Row) -> tuple[str, str] | None:
    if isinstance(row, VersionRow | PriceRow):
        return type(row).__name__, row.id
    return ("fingerprint", fingerprint_key(row.fingerprint)) if isinstance(row, FingerprintRow) else None


def _of(rows: Iterable[Placed[Row]], row_type: type[RowType]) -> list[Placed[RowType]]:
    return [Placed(placed.where, placed.row, placed.own) for placed in rows if isinstance(placed.row, row_type)]


def _unique(named: Iterable[tuple[str, Placed[RowType]]]) -> dict[str, Placed[RowType]]:
    found: dict[str, Placed[RowType]] = {}
    for name, placed in named:
        if name in found:
            raise CatalogError(f"{placed.where}: {name} is there already, as {found[name].where}")
        found[name] = placed
    return found


def _known(version: str, placed: Placed[Row], versions: Mapping[str, Placed[VersionRow]]) -> VersionRow:
    if version not in versions:
        raise CatalogError(f"{placed.where}: there is no version {version}")
    return versions[version].row


def _timelines(spans: Iterable[tuple[str, bool, Span[T]]]) -> dict[str, Timeline[T]]:
    """Timelines by name; the operator's spans (True) go before the shipped ones."""
    grouped: defaultdict[str, tuple[list[Span[T]], list[Span[T]]]] = defaultdict(lambda: ([], []))
    for name, own, span in spans:
        grouped[name][own].append(span)
    try:
        for shipped, _ in grouped.values():
            timeline(shipped)  # what is shipped may not contradict itself, whatever lies over it
        return {name: timeline([*theirs, *without(shipped, theirs)]) for name, (shipped, theirs) in grouped.items()}
    except ValueError as error:
        raise CatalogError(str(error)) from error


def _span(placed: Placed[DatedRow], value: T) -> Span[T]:
    return Span(placed.row.from_s, placed.row.to_s, value, placed.where)


def _aliases(rows: Iterable[Placed[AliasRow]], versions: Mapping[str, Placed[VersionRow]]) -> dict[str, Timeline[str]]:
    """What exact names mean."""
    spans = _alias_spans(rows, versions)
    return _timelines(one for one in spans if not one[0].endswith(ANY_REST))


def _patterns(rows: Sequence[Placed[AliasRow]], versions: Mapping[str, Placed[VersionRow]]) -> tuple[Pattern, ...]:
    """Names with any rest, and names of one dialect only; of two that fit, the longer counts."""
    found: list[Pattern] = []
    for api in sorted({placed.row.api for placed in rows}):
        spans = list(_alias_spans((placed for placed in rows if placed.row.api == api), versions))
        timelines = _timelines(one for one in spans if api or one[0].endswith(ANY_REST))
        found += [Pattern(api, name, meanings) for name, meanings in timelines.items()]
    return tuple(sorted(found, key=lambda pattern: len(pattern.beginning), reverse=True))


def _alias_spans(
    rows: Iterable[Placed[AliasRow]], versions: Mapping[str, Placed[VersionRow]]
) -> Iterator[tuple[str, bool, Span[str]]]:
    for placed in rows:
        version = _known(placed.row.version, placed, versions)
        if placed.row.from_s < version.from_s or placed.row.to_s > version.to_s:
            raise CatalogError(f"{placed.where}: reaches beyond the life of {version.id}")
        for name in placed.row.names:
            yield name, placed.own, _span(placed, placed.row.version)


def _fingerprints(rows: Sequence[Placed[FingerprintRow]], versions: Mapping[str, Placed[VersionRow]]) -> dict[str, str]:
    for placed in rows:
        _known(placed.row.version, placed, versions)
    keyed = _unique((fingerprint_key(placed.row.fingerprint), placed) for placed in rows)
    return {key: placed.row.version for key, placed in keyed.items()}


def _sheets(
    priced: Sequence[Placed[ForVersions]], rules: Sequence[Placed[RuleRow]], versions: Mapping[str, Placed[VersionRow]]
) -> dict[str, dict[str, Sheets]]:
    schemes = _timelines((placed.row.scheme, placed.own, _span(placed, _peak_rule(placed.row))) for placed in rules)
    sheets: defaultdict[str, dict[str, Sheets]] = defaultdict(dict)
    for (version, currency), rows in _priced(priced, versions).items():
        sheets[version][currency] = _by_name(rows, schemes)
    return dict(sheets)


def _by_name(rows: Sequence[Placed[ForVersions]], schemes: Mapping[str, Timeline[PeakRule]]) -> Sheets:
    """The prices of a version under each name that has some of its own, what holds for all names among them."""
    names = {name for placed in rows for name in placed.row.names} | {""}
    return _timelines(
        (name, placed.own, span)
        for name in sorted(names)
        for placed in rows
        if not placed.row.names or name in placed.row.names
        for span in _sheet_spans(placed, schemes)
    )


def _priced(
    rows: Sequence[Placed[ForVersions]], versions: Mapping[str, Placed[VersionRow]]
) -> dict[tuple[str, str], list[Placed[ForVersions]]]:
    grouped: defaultdict[tuple[str, str], list[Placed[ForVersions]]] = defaultdict(list)
    for placed in rows:
        for version in placed.row.versions:
            _known(version, placed, versions)
            grouped[version, placed.row.currency].append(placed)
    return grouped


def _sheet_spans(
    placed: Placed[ForVersions], schemes: Mapping[str, Timeline[PeakRule]]
) -> Iterator[Span[Sheet | None]]:
    """The price cut at the instants at which its scheme changed, so that one look-up finds both."""
    row = placed.row
    if not isinstance(row, PriceRow):
        yield _span(placed, None)
        return
    if row.scheme is None:
        yield _span(placed, _sheet(row, None))
        return
    known_s: float = row.from_s
    for span in schemes[row.scheme].spans if row.scheme in schemes else ():
        from_s, to_s = max(span.from_s, row.from_s), min(span.to_s, row.to_s)
        if from_s < to_s and from_s == known_s:
            yield Span(from_s, to_s, _sheet(row, span.value), placed.where)
            known_s = to_s
    if known_s < row.to_s:
        raise CatalogError(f"{placed.where}: scheme {row.scheme} has no rule for all of its time")


def _sheet(row: PriceRow, rule: PeakRule | None) -> Sheet:
    return Sheet(
        price_id=row.id,
        nanos_per_million=row.per_million.nanos(),
        off_peak_nanos_per_million=row.off_peak_nanos(),
        rule=rule,
        source=row.source,
        review_by=row.review_by,
    )


def _peak_rule(row: RuleRow) -> PeakRule:
    return PeakRule(
        windows=tuple(window for text in row.peak_utc for window in _windows(text)),
        weekdays=frozenset(WEEKDAYS.index(day) for day in row.weekdays),
        except_public_holidays=row.except_public_holidays,
    )


def _windows(text: str) -> tuple[tuple[int, int], ...]:
    """`01:00-04:00` in seconds of the day; a window over midnight becomes the two ends of a day."""
    start, end = (int(clock[:2]) * 3600 + int(clock[3:]) * 60 for clock in text.split("-"))
    return ((start, end),) if start < end else ((start, DAY_SECONDS), (0, end))
