"""Which apps, models and versions are counted under their own names: a client that invents names fills neither Redis nor Prometheus.

Rule 1: what the operator or the catalog names has its place always. Others get one while there are places (`CAPS`), for good,
        and all workers the same: one script gives them out. What has none is counted as `other`, so totals stay right.
Rule 2: a model or a version gets a place only with an exchange that went well and reported its usage: a misspelt or made-up
        name is answered with an error and takes none.
Rule 3: only counters are folded so. The record itself keeps its names.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import msgspec

from proxy.usage import Source, UsageRecord

CAPS: Final = {"app": 200, "model": 100, "version": 50}
"""Names of each label beside those that are named by the operator or the catalog."""

OTHER: Final = "other"
ALWAYS: Final = frozenset({OTHER, "none", "unknown", "anonymous"})
KEPT: Final = 4096
"""Names without a place that are remembered; beyond it they are forgotten, and asked for again."""

IsNamed = Callable[[str, str], bool]
"""By label and name: whether the operator or the catalog names it."""


class GivesPlaces(Protocol):
    """What is needed of a store."""

    async def places(self, label: str, asked: "Asked") -> Sequence[int]:
        """1 for each name that has a place, else 0."""


class Asked(msgspec.Struct, frozen=True):
    """What the script is asked: see `places.lua`."""

    cap: int
    had: list[str]
    asked: list[str]
    may_take: list[bool]


def nobody(_label: str, _name: str) -> bool:
    """Nothing is named by anybody."""
    return False


class Places:
    """What one process knows of the places. Its journals, own and adopted, share it."""

    def __init__(self, store: GivesPlaces, is_named: IsNamed = nobody) -> None:
        self._store = store
        self._is_named = is_named
        self._has: dict[str, set[str]] = {label: set() for label in CAPS}
        self._has_none: dict[str, set[str]] = {label: set() for label in CAPS}

    def __repr__(self) -> str:
        return f"<Places {', '.join(f'{label}={len(names)}' for label, names in self._has.items())}>"

    async def fold(self, records: Sequence[UsageRecord]) -> list[UsageRecord]:
        """The records under the names they are counted by. Raises StoreUnavailableError."""
        for label in CAPS:
            await self._ask(label, records)
        return [self._counted(record) for record in records]

    async def _ask(self, label: str, records: Sequence[UsageRecord]) -> None:
        unknown: dict[str, bool] = {}
        for record in records:
            name, may_take = _name_in(record, label), label == "app" or _went_well(record)
            if self._is_open(label, name, may_take=may_take):
                unknown[name] = unknown.get(name, False) or may_take
        if not unknown:
            return
        had = sorted(self._has[label])  # so that a store which was set back does not give their places to others
        given = await self._store.places(label, Asked(CAPS[label], had, list(unknown), list(unknown.values())))
        self._note(label, unknown, given)

    def _is_open(self, label: str, name: str, *, may_take: bool) -> bool:
        """Whether the store has to be asked. A name without a place may take one with a later exchange."""
        if name in ALWAYS or name in self._has[label] or self._is_named(label, name):
            return False
        return may_take or name not in self._has_none[label]

    def _note(self, label: str, names: dict[str, bool], given: Sequence[int]) -> None:
        has_none = self._has_none[label]
        if len(has_none) >= KEPT:
            has_none.clear()
        for (name, may_take), one in zip(names.items(), given, strict=True):
            if one:
                self._has[label].add(name)
                has_none.discard(name)
            elif may_take or name not in self._has[label]:
                has_none.add(name)

    def _counted(self, record: UsageRecord) -> UsageRecord:
        others = {label: OTHER for label in CAPS if not self._is_counted(label, _name_in(record, label))}
        return msgspec.structs.replace(record, **others) if others else record

    def _is_counted(self, label: str, name: str) -> bool:
        return name in self._has[label] or name in ALWAYS or self._is_named(label, name)


def _name_in(record: UsageRecord, label: str) -> str:
    """The name; of a version without its revision, of which there are few (`pricing.revisions.MOST`)."""
    if label == "app":
        return record.app
    return record.model if label == "model" else record.version.partition("+")[0]


def _went_well(record: UsageRecord) -> bool:
    return 200 <= record.status < 300 and record.source is Source.REPORTED
