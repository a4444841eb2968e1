"""What the gateway workers last said of themselves. Plain state; the reports come in as values, time as an argument."""

from collections import Counter
from typing import Final

from proxy.child import OVERHEAD_BUCKETS_S, WorkerReport

FRESH_S: Final = 5.0
"""A worker reports every second; one that has been silent for so long counts as down."""

ESTIMATE_FIGURES: Final = 4


class Workers:
    """The newest report of every slot, and what ended lives had counted."""

    def __init__(self) -> None:
        self._newest: dict[int, tuple[WorkerReport, float]] = {}
        self._ended_estimates: Counter[tuple[str, str, int]] = Counter()
        self._ended_silent: Counter[str] = Counter()
        self._ended_buckets = [0] * (len(OVERHEAD_BUCKETS_S) + 1)
        self._ended_sum_s = 0.0
        self.restarts = 0

    def __repr__(self) -> str:
        return f"<Workers {sorted(self._newest)} restarts={self.restarts}>"

    def take(self, report: WorkerReport, now_s: float) -> None:
        """A report came in (`now_s` monotonic). A new life in a slot closes the books of the one before."""
        known = self._newest.get(report.slot)
        if known is not None and known[0].life != report.life:
            self.restarts += 1
            self._ended_estimates.update(_estimates(known[0]))
            self._ended_silent.update(known[0].streams_without_usage)
            self._ended_sum_s += known[0].overhead_sum_s
            for index, count in enumerate(known[0].overhead_buckets):
                self._ended_buckets[index] += count
        self._newest[report.slot] = (report, now_s)

    def fresh(self, now_s: float) -> list[WorkerReport]:
        """The reports of the workers that are up, by slot."""
        found = sorted(self._newest.items())
        return [report for _, (report, at_s) in found if now_s - at_s < FRESH_S]

    def streams_without_usage(self) -> dict[str, int]:
        """By upstream: streams that ended well without usage, over all lives of all workers."""
        found = self._ended_silent.copy()
        for report, _ in self._newest.values():
            found.update(report.streams_without_usage)
        return dict(found)

    def estimates(self) -> dict[tuple[str, str], tuple[int, ...]]:
        """By version and part: checks, tokens reported, tokens estimated, tokens off; over all lives of all workers."""
        found = self._ended_estimates.copy()
        for report, _ in self._newest.values():
            found.update(_estimates(report))
        places = sorted({(version, part) for version, part, _ in found})
        return {place: tuple(found[(*place, figure)] for figure in range(ESTIMATE_FIGURES)) for place in places}

    def overhead(self) -> tuple[list[int], float]:
        """Plain bucket counts and sum of the added time, over all lives of all workers."""
        buckets, sum_s = list(self._ended_buckets), self._ended_sum_s
        for report, _ in self._newest.values():
            sum_s += report.overhead_sum_s
            for index, count in enumerate(report.overhead_buckets):
                buckets[index] += count
        return buckets, sum_s


def _estimates(report: WorkerReport) -> dict[tuple[str, str, int], int]:
    """A report's figures apart, so that they add up."""
    return {
        (version, part, index): figure
        for version, part, *figures in report.estimates
        for index, figure in enumerate(figures)
    }
