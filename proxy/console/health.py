"""Is it up, is it ready: decided on plain values."""

from typing import Any

import msgspec

from proxy.child import WorkerReport


class Readiness(msgspec.Struct, frozen=True):
    """Whether traffic should come here, and which part says no."""

    store_reachable: bool
    journals_writable: bool
    workers_up: int
    workers_expected: int

    @property
    def ready(self) -> bool:
        """True if every part is."""
        return self.store_reachable and self.journals_writable and self.workers_up >= self.workers_expected

    def as_json(self, doubts: list[str]) -> dict[str, Any]:
        """The answer of `/readyz`: which part is and which is not. `doubts` do not make it unready."""
        return {
            "ready": self.ready,
            "store": "up" if self.store_reachable else "down",
            "journals": "writable" if self.journals_writable else "not writable",
            "workers": {"up": self.workers_up, "expected": self.workers_expected},
            "store_doubts": doubts,
        }


def readiness(reports: list[WorkerReport], workers_expected: int, *, store_reachable: bool) -> Readiness:
    """The state of readiness from the workers' fresh reports."""
    writable = all(report.journal_writable for report in reports)
    return Readiness(store_reachable, writable, len(reports), workers_expected)
