"""What is counted under its own name: a client that invents names fills neither Redis nor Prometheus.

Rule 1: what the operator or the catalog names has its place always. Others get one while there are places (`CAPS`), for good,
        and all workers the same: one script gives them out. What has none is counted as `other`, so totals stay right.
Rule 2: a model or a version gets a place only with an exchange that went well and reported its usage: a misspelt or made-up
        name is answered with an error and takes none.
Rule 3: names that have places each can still be too many together: a combination of them gets its own series while there is
        room in the whole (`combinations.Room`), for good. Where there is none its last name is counted as `other`.
Rule 4: only counters are folded so. The record itself keeps its names.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from proxy.ledger.combinations import COMBINATIONS, Room, weights
from proxy.ledger.families import field_of
from proxy.usage import Source, UsageRecord

CAPS: Final = {"app": 200, "model": 100, "version": 50}
"""Names of each label beside those that are named by the operator or the catalog."""

OTHER: Final = "other"
ALWAYS: Final = frozenset({OTHER, "none", "unknown", "anonymous"})
KEPT: Final = 4096
"""Names without a place that are remembered; beyond it they are forgotten, and asked for again."""

IsNamed = Callable[[str, str], bool]
"""By label and name: whether the operator or the catalog names it."""

log = structlog.get_logger(__name__)


class GivesPlaces(Protocol):
    """What is needed of a store."""

    async def places(self, kinds: Sequence[str], asked: "Asked") -> Sequence[int]:
        """1 for each that has a place among those of the first kind, else 0; the others share its room."""


class Asked(msgspec.Struct, frozen=True):
    """What the script is asked: see `places.lua`."""

    had: list[list[str]]
    weights: list[int]
    asked: list[str]
    most: list[int]


def nobody(_label: str, _name: str) -> bool:
    """Nothing is named by anybody."""
    return False


class _Known:
    """What one process knows of the places of one kind."""

    def __init__(self) -> None:
        self.has: set[str] = set()
        self.has_none: set[str] = set()
        self.is_full = False

    def note(self, most: dict[str, int], given: Sequence[int]) -> bool:
        """Remember what was answered; True where somebody is sent away for want of room for the first time."""
        if len(self.has_none) >= KEPT:
            self.has_none.clear()
        got = {name for name, one in zip(most, given, strict=True) if one}
        self.has |= got
        self.has_none |= most.keys() - got
        was_full, self.is_full = self.is_full, self.is_full or any(most[name] for name in most.keys() - got)
        return self.is_full and not was_full


class Places:
    """What one process knows of the places. Its journals, own and adopted, share it."""

    def __init__(self, store: GivesPlaces, is_named: IsNamed = nobody, room: Room = Room()) -> None:  # noqa: B008 - frozen
        self._store = store
        self._is_named = is_named
        self._room = room
        self._weights = weights()
        self._names = {label: _Known() for label in CAPS}
        self._combinations = {label: _Known() for label in COMBINATIONS}
        self._own: set[tuple[str, ...]] = set()

    def __repr__(self) -> str:
        return f"<Places {', '.join(f'{label}={len(known.has)}' for label, known in self._names.items())}>"

    async def fold(self, records: Sequence[UsageRecord]) -> list[UsageRecord]:
        """The records under the names they are counted by. Raises StoreUnavailableError."""
        if all(_identity(record) in self._own for record in records):
            return list(records)
        for label in CAPS:
            await self._ask_for_names(label, records)
        counted = [self._named_anew(record) for record in records]
        for label in COMBINATIONS:
            await self._ask_for_combinations(label, counted)
            counted = [self._combined(record, label) for record in counted]
        self._remember(
            one for one, record in zip(map(_identity, records), counted, strict=True) if one == _identity(record)
        )
        return counted

    def _remember(self, own: Iterable[tuple[str, ...]]) -> None:
        """So that the many records whose names are known to be counted as they are cost one look."""
        if len(self._own) >= KEPT:
            self._own.clear()
        self._own.update(own)

    async def _ask_for_names(self, label: str, records: Iterable[UsageRecord]) -> None:
        known, most = self._names[label], dict[str, int]()
        for record in records:
            name, may_take = _name_in(record, label), label == "app" or _went_well(record)
            if self._is_own(label, name) or (name in known.has_none and not may_take):
                continue  # a name without a place may take one with a later exchange that goes well
            most[name] = max(most.get(name, 0), CAPS[label] if may_take else 0)
        if most and await self._is_full([label], most, [known], [1]):
            log.warning("names_counted_as_other", label=label, most=CAPS[label])

    async def _ask_for_combinations(self, label: str, records: Iterable[UsageRecord]) -> None:
        known, most = self._combinations[label], dict[str, int]()
        for record in records:
            one = _combination(record, label)
            if getattr(record, label) != OTHER and one not in known.has and one not in known.has_none:
                most[one] = self._room_of(label, record)
        kinds = [label, *(COMBINATIONS.keys() - {label})]
        sharing = [self._combinations[kind] for kind in kinds]
        named, taking = [f"series:{kind}" for kind in kinds], [self._weights[kind] for kind in kinds]
        if most and await self._is_full(named, most, sharing, taking):
            log.warning("series_counted_as_other", label=label, most=self._room.anybodys)

    async def _is_full(
        self, kinds: Sequence[str], most: dict[str, int], known: Sequence[_Known], taking: list[int]
    ) -> bool:
        """Ask for these of the first kind; True where somebody is sent away for want of room for the first time.

        What had a place is said, so that a store which was set back does not give it to others.
        """
        asked = Asked([sorted(one.has) for one in known], taking, list(most), list(most.values()))
        return known[0].note(most, await self._store.places(kinds, asked))

    def _room_of(self, label: str, record: UsageRecord) -> int:
        name = _name_in(record, label)
        if name not in ALWAYS and not self._is_named(label, name):
            return self._room.anybodys
        return self._room.always if label == "version" and "+" not in record.version else self._room.named

    def _is_own(self, label: str, name: str) -> bool:
        return name in self._names[label].has or name in ALWAYS or self._is_named(label, name)

    def _named_anew(self, record: UsageRecord) -> UsageRecord:
        others = {label: OTHER for label in CAPS if not self._is_own(label, _name_in(record, label))}
        return msgspec.structs.replace(record, **others) if others else record

    def _combined(self, record: UsageRecord, label: str) -> UsageRecord:
        if getattr(record, label) == OTHER or _combination(record, label) in self._combinations[label].has:
            return record
        return msgspec.structs.replace(record, **{label: OTHER})


def _name_in(record: UsageRecord, label: str) -> str:
    """The name; of a version without its revision, of which there are few (`pricing.revisions.MOST`)."""
    if label == "app":
        return record.app
    return record.model if label == "model" else record.version.partition("+")[0]


def _combination(record: UsageRecord, label: str) -> str:
    return field_of(tuple(getattr(record, part) for part in COMBINATIONS[label]))


def _identity(record: UsageRecord) -> tuple[str, ...]:
    return record.upstream, record.version, record.model, record.app


def _went_well(record: UsageRecord) -> bool:
    return 200 <= record.status < 300 and record.source is Source.REPORTED
