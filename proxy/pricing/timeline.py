"""A value that changes at known instants: what an alias means, what a version costs.

Rule 1: a span holds from its first second on and ends *before* its last, so that of two neighbours exactly one holds.
Rule 2: spans never overlap; a gap between them is allowed and means that nothing is known.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Generic, TypeVar

import msgspec

Value = TypeVar("Value")
Other = TypeVar("Other")

OPEN_END = math.inf
"""The end of a span that has none yet."""


class Span(msgspec.Struct, Generic[Value], frozen=True):
    """`value` holds from `from_s` (inclusive) to `to_s` (exclusive), in seconds since the epoch."""

    from_s: float
    to_s: float
    value: Value
    where: str = ""


class Timeline(msgspec.Struct, Generic[Value], frozen=True):
    """Spans in order of time, found by bisection."""

    starts: tuple[float, ...]
    spans: tuple[Span[Value], ...]

    def at(self, at_s: float) -> Value | None:
        """The value in force at an instant; None before the first span, behind the last and in a gap."""
        span = self.span_at(at_s)
        return None if span is None else span.value

    def span_at(self, at_s: float) -> Span[Value] | None:
        """The span of an instant: where a value may be None itself, it tells a gap from that."""
        index = bisect_right(self.starts, at_s) - 1
        return self.spans[index] if index >= 0 and at_s < self.spans[index].to_s else None


def without(spans: Iterable[Span[Value]], others: Sequence[Span[Other]]) -> list[Span[Value]]:
    """What of `spans` lies outside of all of `others`: a span may be cut short, in two, or away."""
    left = list(spans)
    for other in others:
        left = [piece for span in left for piece in _outside(span, other)]
    return left


def _outside(span: Span[Value], other: Span[Other]) -> Iterator[Span[Value]]:
    if other.to_s <= span.from_s or span.to_s <= other.from_s:
        yield span
        return
    if span.from_s < other.from_s:
        yield Span(span.from_s, other.from_s, span.value, span.where)
    if other.to_s < span.to_s:
        yield Span(other.to_s, span.to_s, span.value, span.where)


def timeline(spans: Iterable[Span[Value]]) -> Timeline[Value]:
    """The spans as a timeline. Raises ValueError, naming both rows, where two of them overlap."""
    ordered = tuple(sorted(spans, key=lambda span: span.from_s))
    for earlier, later in pairwise(ordered):
        if later.from_s < earlier.to_s:
            raise ValueError(f"{later.where}: overlaps with {earlier.where}")
    return Timeline(starts=tuple(span.from_s for span in ordered), spans=ordered)
