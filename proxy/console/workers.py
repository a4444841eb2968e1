"""What the gateway workers last said of themselves. Plain state; the reports come in as values, time as an argument."""

from typing import Final

from proxy.child import OVERHEAD_BUCKETS_S, WorkerReport

FRESH_S: Final = 5.0
"""A worker reports every second; one that has been silent for so long counts as down."""


class Workers:
    """The newest report of every slot, and what ended lives had counted."""

    def __init__(self) -> None:
        self._newest: dict[int, tuple[WorkerReport, float]] = {}
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
            self._ended_sum_s += known[0].overhead_sum_s
            for index, count in enumerate(known[0].overhead_buckets):
                self._ended_buckets[index] += count
        self._newest[report.slot] = (report, now_s)

    def fresh(self, now_s: float) -> list[WorkerReport]:
        """The reports of the workers that are up, by slot."""
        found = sorted(self._newest.items())
        return [report for _, (report, at_s) in found if now_s - at_s < FRESH_S]

    def overhead(self) -> tuple[list[int], float]:
        """Plain bucket counts and sum of the added time, over all lives of all workers."""
        buckets, sum_s = list(self._ended_buckets), self._ended_sum_s
        for report, _ in self._newest.values():
            sum_s += report.overhead_sum_s
            for index, count in enumerate(report.overhead_buckets):
                buckets[index] += count
        return buckets, sum_s
