"""Which labels are counted together, how many series such a combination can have at most, and how many there may be. Pure.

Names may each have their place and still be too many together: 200 apps by 50 versions are 10,000. So every combination that a
record brings is given room out of a whole, reckoned with all the series it can ever have, and once only.
"""

import math
from collections.abc import Iterable
from typing import Final, NamedTuple

from proxy.ledger.families import FAMILIES, Family, parse_field
from proxy.usage import CURRENCIES, KINDS, Api, Missing, Outcome, Purpose, Rule, Source

OTHER: Final = "other"

COMBINATIONS: Final = {
    "version": ("upstream", "version"),
    "model": ("upstream", "version", "model"),
    "app": ("app", "version"),
    "version_mismatch": ("version_mismatch", "version"),
}
"""By the field of a record that is counted as `other` where there is no room, in this order. A version stands with its revision."""

SHARING: Final = {
    "version": ("version", "model"),
    "model": ("model", "version"),
    "app": ("app", "version_mismatch"),
    "version_mismatch": ("version_mismatch", "app"),
}
"""Who shares a room, itself first. What a client says of itself never takes that of versions and models."""

_FIELDS: Final = {"expected": "version_mismatch"}
"""Labels that have another name than the field of the record."""

_VALUES: Final = {
    "kind": len(KINDS),
    "source": len(Source) - 1,  # what has no usage has no tokens
    "currency": len(CURRENCIES),
    "api": len(Api),
    "outcome": len(Outcome),
    "reason": len(Missing),
    "rule": len(Rule),
    "purpose": len(Purpose),
}
"""How many values a label has that is no name."""


class Room(NamedTuple):
    """Up to how many series a new combination is counted by itself: anybody's, and one of a name of the operator or the catalog.

    Versions of the catalog and of the settings are counted by themselves always. What is left to 20,000 is for gauges: the
    names and fingerprints of versions can be 2,000 of them.
    """

    anybodys: int
    named: int
    always: int = 2**31


ROOMS: Final = {
    "version": Room(10_800, 11_500),
    "model": Room(10_800, 11_500),
    "app": Room(5_000, 6_000),
    "version_mismatch": Room(5_000, 6_000),
}


def weights() -> dict[str, int]:
    """The series of each combination, by its field.

    A version's are also those that are left to it where everything else is `other`.
    """
    found = {field: sum(_series(one) for one in FAMILIES.values() if _is_of(one, field)) for field in COMBINATIONS}
    return {**found, "version": sum(found.values())}


def counted_together(totals: Iterable[bytes]) -> dict[str, set[tuple[str, ...]]]:
    """The combinations that the fields of the totals hash tell of: they have their series."""
    found: dict[str, set[tuple[str, ...]]] = {field: set() for field in COMBINATIONS}
    for name, values in map(parse_field, totals):
        labels = _fields(FAMILIES[name]) if name in FAMILIES else ()
        said = dict(zip(labels, values, strict=False))  # a histogram's fields have a part behind the labels
        for field, parts in COMBINATIONS.items():
            if said.keys() >= set(parts) and said[field] != OTHER:
                found[field].add(tuple(said[part] for part in parts))
    return found


def _is_of(family: Family, field: str) -> bool:
    """Whether these are the series that come with this field, and with no other one."""
    names = [one for one in COMBINATIONS if one in _fields(family)]
    return "version" in names and names[-1] == field


def _fields(family: Family) -> tuple[str, ...]:
    return tuple(_FIELDS.get(label, label) for label in family.labels)


def _series(family: Family) -> int:
    """Of one combination: a histogram has its buckets, one without end, the count and the sum."""
    own = len(family.buckets) + 3 if family.buckets else 1
    return own * math.prod(_VALUES.get(label, 1) for label in family.labels)
