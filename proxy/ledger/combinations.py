"""Which labels are counted together, and how many series such a combination can have at most. Pure.

Names may each have their place and still be too many together: 200 apps by 50 versions are 10,000. So every combination that a
record brings is given room out of one whole, reckoned with all the series it can ever have, and once only.
"""

import math
from typing import Final, NamedTuple

from proxy.ledger.families import FAMILIES, Family
from proxy.usage import CURRENCIES, KINDS, Api, Missing, Outcome, Purpose, Rule, Source

COMBINATIONS: Final = {
    "version": ("upstream", "version"),
    "model": ("upstream", "version", "model"),
    "app": ("app", "version"),
}
"""By the label that is counted as `other` where there is no room, in this order. A version stands here with its revision."""

_VALUES: Final = {
    "kind": len(KINDS),
    "source": len(Source) - 1,  # what has no usage has no tokens
    "currency": len(CURRENCIES),
    "api": len(Api),
    "outcome": len(Outcome),
    "reason": len(Missing),
    "rule": len(Rule),
    "purpose": len(Purpose),
    "expected": 20,  # versions that clients expect: the catalog's
}
"""How many values a label has that is no name."""


class Room(NamedTuple):
    """Up to how many series a new combination is counted by itself: anybody's, and one of a name of the operator or the catalog.

    What is left to 20,000 is for gauges (the names and fingerprints of versions can be 2,000 of them), and for what is always
    counted by itself: versions of the catalog and of the settings, and `other`.
    """

    anybodys: int = 14_000
    named: int = 16_000
    always: int = 2**31


def weights() -> dict[str, int]:
    """The series of each combination, by its label.

    A version's are also those that are left to it where all its apps and models are `other`.
    """
    app, model = _of("app"), _of("model")
    return {"version": _of("version", but=("app", "model")) + app + model, "model": model, "app": app}


def _of(label: str, but: tuple[str, ...] = ()) -> int:
    families = [
        one for one in FAMILIES.values() if {"version", label} <= set(one.labels) and not set(but) & set(one.labels)
    ]
    return sum(map(_series, families))


def _series(family: Family) -> int:
    """Of one combination: a histogram has its buckets, one without end, the count and the sum."""
    own = len(family.buckets) + 3 if family.buckets else 1
    return own * math.prod(_VALUES.get(label, 1) for label in family.labels)
