"""The books laid side by side: what the simulator billed, what the clients saw, and what the proxy recorded. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from chaos.clients import Seen

from proxy.usage import KINDS, Outcome, Source, UsageRecord


class Row(msgspec.Struct):
    """What one fault cost: all but the first three should be 0."""

    fault: str
    exchanges: int = 0
    ended: int = 0
    interrupted: int = 0
    lost: int = 0
    double: int = 0
    tokens_off: int = 0
    cost_off_nanos: int = 0

    @property
    def clean(self) -> bool:
        """True where the proof holds."""
        return not (self.lost or self.double or self.tokens_off or self.cost_off_nanos)


class Slot(msgspec.Struct):
    """The time of one fault: exchanges that began in it are put down to it."""

    fault: str
    from_s: float


def rows(
    slots: Sequence[Slot], seen: Iterable[Seen], billed: Iterable[Mapping[str, Any]], records: Iterable[UsageRecord]
) -> list[Row]:
    """One row a fault. `billed` is the simulator's list, exchange by exchange."""
    by_tag: dict[str, list[UsageRecord]] = defaultdict(list)
    for record in records:
        by_tag[record.expected_version].append(record)
    entries = {entry["tag"]: entry for entry in billed}
    found = {slot.fault: Row(slot.fault) for slot in slots}
    for one in seen:
        row = found[_fault_at(slots, one.begun_s)]
        _enter(row, one, entries.get(one.tag), by_tag[one.tag])
    return list(found.values())


def _enter(row: Row, seen: Seen, entry: Mapping[str, Any] | None, records: Sequence[UsageRecord]) -> None:
    row.double += max(len(records) - 1, 0)
    if entry is None:
        return  # it never reached the simulator; a record of a refusal or a failure is fine
    row.exchanges += 1
    row.lost += not records
    row.interrupted += sum(record.outcome is Outcome.INTERRUPTED for record in records)
    if seen.ended and records:
        row.ended += 1
        row.tokens_off += _tokens_off(entry, records[0])
        row.cost_off_nanos += _cost_off(entry, records[0])


def _fault_at(slots: Sequence[Slot], at_s: float) -> str:
    return next((slot.fault for slot in reversed(slots) if slot.from_s <= at_s), slots[0].fault)


def _tokens_off(entry: Mapping[str, Any], record: UsageRecord) -> int:
    counted = dict(record.usage.by_kind()) if record.usage and record.source is Source.REPORTED else {}
    return sum(abs(entry["tokens"][kind] - counted.get(kind, 0)) for kind in KINDS)


def _cost_off(entry: Mapping[str, Any], record: UsageRecord) -> int:
    nanos = next((charge.nanos for charge in record.charges if charge.currency == "USD"), (0, 0, 0, 0))
    billed = entry["cost_nano_usd"] or dict.fromkeys(KINDS, 0)
    return sum(abs(billed[kind] - value) for kind, value in zip(KINDS, nanos, strict=True))


def totals_off(records: Iterable[UsageRecord], totals: Mapping[tuple[str, ...], int]) -> int:
    """By how much the counters differ from the sum of the records: exchanges, tokens and nano-dollars together."""
    sums: dict[str, int] = defaultdict(int)
    for record in records:
        sums["requests_total"] += 1
        sums["tokens_total"] += record.usage.total if record.usage else 0
        sums["cost_usd_total"] += sum(charge.total_nanos for charge in record.charges if charge.currency == "USD")
    counted: dict[str, int] = defaultdict(int)
    for (family, *_), value in totals.items():
        counted[family] += value
    return sum(abs(value - counted[family]) for family, value in sums.items())
