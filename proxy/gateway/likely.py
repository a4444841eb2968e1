"""What an exchange is likely to cost: learned from the traffic of its app and version, as high quantiles. No I/O.

Learned are tokens, not money, so that a change of band or price needs no learning: cached and other input tokens per byte of the
body, and output tokens. With too little of an app's own traffic, the version's of all apps tells; with none, `COLD`.
"""

import math
from typing import Final, NamedTuple

from proxy.metering.request import RequestFacts
from proxy.pricing.revisions import base_of
from proxy.usage import Source, UsageRecord

SHARE: Final = 0.9
"""Of ten exchanges nine take no more than what is held for them; held too little is made good by those that take less."""

ENOUGH: Final = 20
FORGETS_AFTER: Final = 2000
MOST_PLACES: Final = 2000
_STEPS_PER_DOUBLING: Final = 4


class Likely(NamedTuple):
    """Cached and other input tokens per byte of the body, and output tokens."""

    hit_per_byte: float
    miss_per_byte: float
    output: float


COLD: Final = Likely(0.0, 0.5, 2048.0)
"""Before there is traffic: a token every two bytes, none of them cached, and an answer longer than most."""


class Quantile:
    """A high quantile of positive numbers, to a fifth of its value; older ones count less and less."""

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self._seen = 0.0

    @property
    def is_known(self) -> bool:
        """True once enough was seen."""
        return self._seen >= ENOUGH

    def note(self, value: float) -> None:
        """See one more."""
        step = math.ceil(_STEPS_PER_DOUBLING * math.log2(value)) if value > 0 else -1000
        self._counts[step] = self._counts.get(step, 0.0) + 1.0
        self._seen += 1.0
        if self._seen > FORGETS_AFTER:
            self._counts = {at: count / 2 for at, count in self._counts.items() if count >= 0.25}
            self._seen = sum(self._counts.values())

    def value(self, share: float) -> float:
        """What so large a share of them does not exceed; 0 where none was seen."""
        wanted, found = share * self._seen, 0.0
        for step in sorted(self._counts):
            found += self._counts[step]
            if found >= wanted:
                return 2.0 ** (step / _STEPS_PER_DOUBLING) if step > -1000 else 0.0
        return 0.0


class _Learned:
    """The three quantiles of one place."""

    __slots__ = ("hit", "miss", "output")

    def __init__(self) -> None:
        self.hit, self.miss, self.output = Quantile(), Quantile(), Quantile()

    def likely(self) -> Likely:
        return Likely(self.hit.value(SHARE), self.miss.value(SHARE), self.output.value(SHARE))


class Learner:
    """Learns from records with a reported usage."""

    def __init__(self) -> None:
        self._places: dict[tuple[str, str], _Learned] = {}

    def __repr__(self) -> str:
        return f"<Learner of {len(self._places)}>"

    def note(self, record: UsageRecord, request: RequestFacts) -> None:
        """Look at the record of an exchange and what was asked."""
        usage = record.usage
        if usage is None or record.source is not Source.REPORTED or not request.body_bytes:
            return
        version = base_of(record.version)
        for place in ((record.app, version), ("", version)):
            learned = self._place(place)
            learned.hit.note(usage.input_cache_hit / request.body_bytes)
            learned.miss.note(usage.input_cache_miss / request.body_bytes)
            learned.output.note(usage.completion)

    def likely(self, app: str, version: str) -> Likely:
        """What an exchange of an app with a version is likely to take."""
        for place in ((app, version), ("", version)):
            learned = self._places.get(place)
            if learned is not None and learned.output.is_known:
                return learned.likely()
        return COLD

    def _place(self, place: tuple[str, str]) -> _Learned:
        """The newest is kept last: names come from clients, and one that makes them up must not push out those in use."""
        found = self._places.pop(place, None) or _Learned()
        if len(self._places) >= MOST_PLACES:
            self._places.pop(next(iter(self._places)))
        self._places[place] = found
        return found
