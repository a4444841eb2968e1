"""From the store's fields to the series that are shown. Pure: a snapshot and an instant in, numbers out.

A series that is new at run time is shown as 0 until it has been there for the hold time, so that Prometheus has seen it
before its first value and `increase()` misses nothing. Versions in force are shown as 0 from the start.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import NamedTuple

from proxy.ledger.answers import Snapshot
from proxy.ledger.families import FAMILIES, Family, parse_field

Labels = tuple[str, ...]


class Histogram(NamedTuple):
    """One series of a histogram as Prometheus wants it: cumulated counts per bound, and the sum in exported units."""

    cumulated: tuple[int, ...]
    sum: float


class Series(NamedTuple):
    """All counters of a snapshot: by family and labels, in exported units; and since when each has been there."""

    counters: Mapping[str, Mapping[Labels, float]]
    histograms: Mapping[str, Mapping[Labels, Histogram]]
    seen_s: Mapping[tuple[str, Labels], float]


def series_of(snapshot: Snapshot, hold_s: float, shown_from_start: Iterable[tuple[str, Labels]] = ()) -> Series:
    """The series of a snapshot. Fields of families this release does not know are passed over."""
    counters: dict[str, dict[Labels, float]] = {name: {} for name in FAMILIES}
    parts: dict[str, dict[Labels, dict[str, int]]] = defaultdict(lambda: defaultdict(dict))
    for shown, labels in shown_from_start:
        counters[shown][labels] = 0.0
    seen_s: dict[tuple[str, Labels], float] = {}
    for field, value in snapshot.totals.items():
        name, labels = parse_field(field)
        family = FAMILIES.get(name)
        if family is None:
            continue
        first_s = float(snapshot.series_seen_ms.get(field, 0)) / 1000
        number = 0 if snapshot.taken_s - first_s < hold_s else int(value)
        if family.buckets:
            parts[name][labels[:-1]][labels[-1]] = number
        else:
            counters[name][labels] = number / family.scale
            seen_s[name, labels] = first_s
    return Series(counters, {name: _histograms(FAMILIES[name], found) for name, found in parts.items()}, seen_s)


def zeros_from_start(in_force: Iterable[tuple[str, tuple[str, ...]]], upstream: str) -> list[tuple[str, Labels]]:
    """The series of versions in force under their names, so that their very first tokens are seen as an increase."""
    found: list[tuple[str, Labels]] = []
    kinds = ("input_cache_hit", "input_cache_miss", "output_reasoning", "output_answer")
    for version, names in in_force:
        for name in names:
            place = (upstream, version, name)
            found += [("tokens_total", (*place, kind, "reported")) for kind in kinds]
            found += [("cost_usd_total", (*place, kind, "reported")) for kind in kinds]
            found.append(("requests_total", (*place, "chat", "complete")))
    return found


def _histograms(family: Family, found: Mapping[Labels, Mapping[str, int]]) -> dict[Labels, Histogram]:
    return {labels: _histogram(family, parts) for labels, parts in found.items()}


def _histogram(family: Family, parts: Mapping[str, int]) -> Histogram:
    counts = [parts.get(str(index), 0) for index in range(len(family.buckets) + 1)]
    return Histogram(tuple(accumulate(counts)), parts.get("sum", 0) / family.scale)
