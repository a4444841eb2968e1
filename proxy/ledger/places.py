"""What is counted under its own name: a client that invents names fills neither Redis nor Prometheus.

Rule 1: what the operator or the catalog names has its place always. Others get one while there are places (`CAPS`), for good,
        and all workers the same: one script gives them out. What has none is counted as `other`, so totals stay right.
Rule 2: a place is taken only with an exchange that went well; by a model or a version, also with its usage reported. Whoever
        has no key of the upstream takes none: a made-up name is answered with an error.
Rule 3: names that have places each can still be too many together: a combination of them gets its own series while there is
        room (`combinations.ROOMS`), for good. Where there is none its last name is counted as `other`.
Rule 4: what has its series keeps them: each process begins with those that the totals tell of, whatever gave them.
Rule 5: only counters are folded so. The record itself keeps its names.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

import msgspec
import structlog

from proxy.ledger.combinations import COMBINATIONS, OTHER, ROOMS, SHARING, counted_together, weights
from proxy.ledger.families import field_of
from proxy.usage import Outcome, Source, UsageRecord

CAPS: Final = {"app": 200, "model": 100, "version": 50}
"""Names of each label beside those that are named by the operator or the catalog."""

ALWAYS: Final = frozenset({OTHER, "none", "unknown", "anonymous"})
KEPT: Final = 4096
"""Names without a place that are remembered; beyond it they are forgotten, and asked for again."""

_LABELS: Final = {"version_mismatch": "version"}
"""Fields whose names are those of another label."""

IsNamed = Callable[[str, str], bool]
"""By label and name: whether the operator or the catalog names it."""

log = structlog.get_logger(__name__)


class GivesPlaces(Protocol):
    """What is needed of a store."""

    async def places(self, kinds: Sequence[str], asked: "Asked") -> Sequence[int]:
        """1 for each that has a place among those of the first kind, else 0; the others share its room."""

    async def hashes(self, names: Sequence[str]) -> Sequence[Mapping[bytes, bytes]]:
        """Hashes as they stand."""


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
    """What one process knows of the places of one kind: who has one, and up to what one was asked for in vain."""

    def __init__(self) -> None:
        self.has: set[str] = set()
        self.has_none: dict[str, int] = {}
        self.is_full = False

    def is_open(self, name: str, most: int) -> bool:
        """Whether the store has to be asked: one that was sent away may ask again with more, such as an exchange that went well."""
        return name not in self.has and most > self.has_none.get(name, -1)

    def note(self, most: dict[str, int], given: Sequence[int]) -> bool:
        """Remember what was answered; True where somebody is sent away for want of room for the first time."""
        if len(self.has_none) >= KEPT:
            self.has_none.clear()
        got = {name for name, one in zip(most, given, strict=True) if one}
        sent_away = {name: up_to for name, up_to in most.items() if name not in got}
        self.has |= got
        self.has_none |= sent_away
        was_full, self.is_full = self.is_full, self.is_full or any(sent_away.values())
        return self.is_full and not was_full


class Places:
    """What one process knows of the places. Its journals, own and adopted, share it."""

    def __init__(self, store: GivesPlaces, is_named: IsNamed = nobody) -> None:
        self._store = store
        self._is_named = is_named
        self._weights = weights()
        self._names = {label: _Known() for label in CAPS}
        self._combinations = {field: _Known() for field in COMBINATIONS}
        self._own: set[tuple[str, ...]] = set()
        self._has_begun = False

    def __repr__(self) -> str:
        return f"<Places {', '.join(f'{label}={len(known.has)}' for label, known in self._names.items())}>"

    async def fold(self, records: Sequence[UsageRecord]) -> list[UsageRecord]:
        """The records under the names they are counted by. Raises StoreUnavailableError."""
        if all(_identity(record) in self._own for record in records):
            return list(records)
        if not self._has_begun:
            await self._begin()
        for label in CAPS:
            await self._ask_for_names(label, records)
        counted = [self._named_anew(record) for record in records]
        for field in COMBINATIONS:
            await self._ask_for_combinations(field, counted)
            counted = [self._combined(record, field) for record in counted]
        self._remember(
            one for one, record in zip(map(_identity, records), counted, strict=True) if one == _identity(record)
        )
        return counted

    async def _begin(self) -> None:
        """Those that have series, also of releases that gave no places and after a store was set back."""
        (totals,) = await self._store.hashes(["totals"])
        for field, combinations in counted_together(totals).items():
            self._combinations[field].has |= set(map(field_of, combinations))
            if field in CAPS:
                own = COMBINATIONS[field].index(field)
                names = {_base(one[own]) if field == "version" else one[own] for one in combinations}
                self._names[field].has |= {name for name in names if not self._is_own(field, name)}
        self._has_begun = True

    def _remember(self, own: Iterable[tuple[str, ...]]) -> None:
        """So that the many records whose names are known to be counted as they are cost one look."""
        if len(self._own) >= KEPT:
            self._own.clear()
        self._own.update(own)

    async def _ask_for_names(self, label: str, records: Iterable[UsageRecord]) -> None:
        known, most = self._names[label], dict[str, int]()
        for record in records:
            name, up_to = _name_in(record, label), CAPS[label] if _went_well(record, label) else 0
            if not self._is_own(label, name) and known.is_open(name, up_to):
                most[name] = max(most.get(name, 0), up_to)
        if most and await self._is_full([label], most, [known], [1]):
            log.warning("names_counted_as_other", label=label, most=CAPS[label])

    async def _ask_for_combinations(self, field: str, records: Iterable[UsageRecord]) -> None:
        known, most = self._combinations[field], dict[str, int]()
        for record in records:
            if getattr(record, field) in (OTHER, ""):
                continue
            one, up_to = _combination(record, field), self._room_of(field, record)
            if known.is_open(one, up_to):
                most[one] = max(most.get(one, 0), up_to)
        kinds = SHARING[field]
        sharing, taking = [self._combinations[kind] for kind in kinds], [self._weights[kind] for kind in kinds]
        if most and await self._is_full([f"series:{kind}" for kind in kinds], most, sharing, taking):
            log.warning("series_counted_as_other", label=field, most=ROOMS[field].anybodys)

    async def _is_full(
        self, kinds: Sequence[str], most: dict[str, int], known: Sequence[_Known], taking: list[int]
    ) -> bool:
        """Ask for these of the first kind; True where somebody is sent away for want of room for the first time.

        What had a place is said, so that a store which was set back does not give it to others.
        """
        asked = Asked([sorted(one.has) for one in known], taking, list(most), list(most.values()))
        return known[0].note(most, await self._store.places(kinds, asked))

    def _room_of(self, field: str, record: UsageRecord) -> int:
        """Up to what a combination may take room: 0 where its exchange did not go well and nobody vouches for its names."""
        name, room = _name_in(record, field), ROOMS[field]
        if name in ALWAYS or self._is_named(_LABELS.get(field, field), name):
            return room.always if field == "version" and "+" not in record.version else room.named
        return room.anybodys if _went_well(record, field) else 0

    def _is_own(self, label: str, name: str) -> bool:
        return name in self._names[label].has or name in ALWAYS or self._is_named(label, name)

    def _named_anew(self, record: UsageRecord) -> UsageRecord:
        others = {label: OTHER for label in CAPS if not self._is_own(label, _name_in(record, label))}
        return msgspec.structs.replace(record, **others) if others else record

    def _combined(self, record: UsageRecord, field: str) -> UsageRecord:
        if getattr(record, field) in (OTHER, "") or _combination(record, field) in self._combinations[field].has:
            return record
        return msgspec.structs.replace(record, **{field: OTHER})


def _name_in(record: UsageRecord, field: str) -> str:
    """The name; of a version without its revision, of which there are few (`pricing.revisions.MOST`)."""
    name = str(getattr(record, field))
    return name if field in ("app", "model") else _base(name)


def _base(version: str) -> str:
    return version.partition("+")[0]


def _combination(record: UsageRecord, field: str) -> str:
    return field_of(tuple(getattr(record, part) for part in COMBINATIONS[field]))


def _identity(record: UsageRecord) -> tuple[str, ...]:
    return record.upstream, record.version, record.model, record.app, record.version_mismatch


def _went_well(record: UsageRecord, field: str) -> bool:
    """Whether the upstream took it for a good one; of what a crash interrupted nobody knows, and no stranger can bring that about."""
    answered = 200 <= record.status < 300
    if field == "app":
        return answered or record.outcome is Outcome.INTERRUPTED
    return answered and record.source is Source.REPORTED
