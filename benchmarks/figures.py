"""From the samples of many rounds to the figures that are shown: medians, spans, and ratios taken round by round. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Final, NamedTuple

Sample = Mapping[str, float]
"""What one round of one target gave, by the name of the figure."""

Rounds = Mapping[str, Sequence[Sample]]
"""The samples of every target by its name, in the order of rounds."""


class Span(NamedTuple):
    """The median of the rounds, and the lowest and highest of them."""

    median: float
    low: float
    high: float


class Verdict(NamedTuple):
    """One target of ours: what was asked, what was measured."""

    text: str
    ratio: Span
    met: bool


class Goal(NamedTuple):
    """A bound on the ratio proxy / bare relay of a figure; `at_least` tells which side of it is good."""

    figure: str
    text: str
    bound: float
    at_least: bool


GOALS: Final = (
    Goal("requests_per_s", "requests/s: proxy at least 0.7 of the bare relay", 0.7, at_least=True),
    Goal("cpu_us_per_chunk", "CPU per streamed chunk: proxy at most 1.3 of the bare relay", 1.3, at_least=False),
)


def percentile(values: Sequence[int], share: float) -> float:
    """The value that `share` (0 to 1) of the values do not exceed; 0 for none."""
    ordered = sorted(values)
    return float(ordered[min(int(share * len(ordered)), len(ordered) - 1)]) if ordered else 0.0


def span(values: Iterable[float]) -> Span:
    """Median, lowest and highest."""
    found = list(values)
    return Span(median(found), min(found), max(found))


def span_of(rounds: Rounds, target: str, figure: str) -> Span | None:
    """A figure of a target over its rounds; None where it has none (nobody relays in a direct run)."""
    values = [sample[figure] for sample in rounds.get(target, ()) if figure in sample]
    return span(values) if values else None


def ratio(rounds: Rounds, figure: str, over: str = "proxy", under: str = "bare relay") -> Span:
    """The ratio of two targets, round by round: what slows the machine for a while slows both."""
    pairs = zip(rounds[over], rounds[under], strict=True)
    return span(one[figure] / other[figure] for one, other in pairs)


def verdicts(rounds: Rounds) -> list[Verdict]:
    """Which of our goals are met, by the median ratio."""
    found = []
    for goal in GOALS:
        seen = ratio(rounds, goal.figure)
        met = seen.median >= goal.bound if goal.at_least else seen.median <= goal.bound
        found.append(Verdict(goal.text, seen, met))
    return found
