"""What was counted: the fields of a rollup as numbers, and the sums of a group of them. Pure; integers only.

A token without a price is never $0: it is kept beside the cost, by currency, and where a cost would be made of such tokens
alone there is none (None).
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from proxy.errors import MeterError
from proxy.ledger.tally import Cell, cell_of
from proxy.usage import CURRENCIES, KINDS, Band, Source

ALL_KINDS = tuple(range(len(KINDS)))
"""The kinds by their places in `usage.KINDS`."""


class Measured:
    """Exchanges, tokens by kind; nano-units and tokens without a price by currency and kind."""

    __slots__ = ("nanos", "requests", "tokens", "unpriced")

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = [0] * len(KINDS)
        self.nanos = {currency: [0] * len(KINDS) for currency in CURRENCIES}
        self.unpriced = {currency: [0] * len(KINDS) for currency in CURRENCIES}

    def __repr__(self) -> str:
        return f"Measured({self.requests} requests, tokens {self.tokens}, nanos {self.nanos})"

    def add(self, other: "Measured") -> None:
        """Take the same of something else in."""
        self.requests += other.requests
        for mine, more in zip(self.lists(), other.lists(), strict=True):
            for place in ALL_KINDS:
                mine[place] += more[place]

    def count(self, kinds: Sequence[int] = ALL_KINDS) -> int:
        """Tokens of these kinds."""
        return sum(self.tokens[kind] for kind in kinds)

    def count_unpriced(self, currency: str, kinds: Sequence[int] = ALL_KINDS) -> int:
        """Those of them that have no price in a currency."""
        return sum(self.unpriced[currency][kind] for kind in kinds)

    def cost(self, currency: str, kinds: Sequence[int] = ALL_KINDS) -> int | None:
        """Nano-units of these kinds; None where there are tokens and none of them has a price."""
        nanos = sum(self.nanos[currency][kind] for kind in kinds)
        return None if not nanos and 0 < self.count(kinds) == self.count_unpriced(currency, kinds) else nanos

    def present(self, kinds: Sequence[int] = ALL_KINDS) -> bool:
        """Whether there is anything of these kinds; of all kinds: also an exchange."""
        return any(each[kind] for each in self.lists() for kind in kinds) or (
            len(kinds) == len(KINDS) and bool(self.requests)
        )

    def lists(self) -> list[list[int]]:
        """Everything that is kept by kind, in one order."""
        return [self.tokens, *self.nanos.values(), *self.unpriced.values()]


class Figures:
    """The sums of a group, by source; and of all of it what was charged at the higher price, the band being unknown."""

    def __init__(self) -> None:
        self.by_source = {source.value: Measured() for source in Source}
        self.uncertain = Measured()

    def add(self, cell: Cell, measured: Measured) -> None:
        """Take a cell in."""
        self.by_source[cell.source].add(measured)
        if cell.band == Band.UNKNOWN:
            self.uncertain.add(measured)

    def merge(self, other: "Figures") -> None:
        """Take another group in."""
        for source, measured in other.by_source.items():
            self.by_source[source].add(measured)
        self.uncertain.add(other.uncertain)

    @property
    def estimated(self) -> Measured:
        """What was estimated."""
        return self.by_source[Source.ESTIMATED]

    def all(self) -> Measured:
        """Whatever its source."""
        together = Measured()
        for measured in self.by_source.values():
            together.add(measured)
        return together


def summed(rollups: Iterable[tuple[Mapping[bytes, int], int]]) -> dict[bytes, int]:
    """The fields of rollups that count so many times each, without those of which nothing is left.

    Raises MeterError where less than nothing is left of one.
    """
    sums: dict[bytes, int] = defaultdict(int)
    for rollup, weight in rollups:
        for field, value in rollup.items():
            sums[field] += weight * value
    if any(value < 0 for value in sums.values()):
        raise MeterError(
            "the rollups per minute, hour and day do not agree: somebody wrote into our keys, or restored some of them; "
            "whole UTC days (--since and --until at 00:00Z) can still be told"
        )
    return {field: value for field, value in sums.items() if value}


def measured(fields: Mapping[bytes, int]) -> Iterator[tuple[Cell, Measured]]:
    """The fields of a rollup by cell. A measure of a later release, which this one does not know, is left out."""
    found: dict[bytes, Measured] = defaultdict(Measured)
    for field, value in fields.items():
        end = field.rindex(b"]") + 1
        _enter(found[field[:end]], field[end:], value)
    for head, one in found.items():
        cell, _ = cell_of(head.decode())
        for currency in set(CURRENCIES) - {currency for currency, _ in cell.price_ids}:
            one.unpriced[currency] = list(one.tokens)
        yield cell, one


def _enter(one: Measured, measure: bytes, value: int) -> None:
    if measure == b"n":
        one.requests += value
        return
    name, place = measure[:-1].decode(), measure[-1:]
    values = one.tokens if name == "t" else one.nanos.get(name)
    if values is not None and place in b"0123":
        values[int(place)] += value
