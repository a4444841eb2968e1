"""What is reserved in budgets for exchanges under way: what the scripts are asked, and what a worker remembers. Pure.

The store keeps per journal what is held for each exchange, and a budget is never more than `spent + held`. What is held goes in
the same script that adds the record to the counters, so a retry, a crash or a rollback leaves neither a leak nor a double.
Everything else follows from one rule: *what is held for a journal is what its owner says is open*. The owner says so every few
seconds, and once more, with nothing open, when the journal of a dead worker is drained.
"""

from collections import deque
from collections.abc import Mapping
from typing import Any

import msgspec

from proxy.ledger.answers import Want
from proxy.ledger.recovery import SUFFIX
from proxy.pricing.budgets import ROLLING_BUCKETS
from proxy.usage import Share

StillOpen = Mapping[str, tuple[Share, ...] | None]
"""What is reserved by exchange; None where the answer is not heard yet, or never was."""


def holds_hash(journal_id: str) -> str:
    """The name of the hash that keeps what is held for a journal's exchanges; those recovered from it are its own."""
    return f"holds:{journal_id.removesuffix(SUFFIX)}"


def holds_text(shares: tuple[Share, ...]) -> str:
    """What is held for an exchange, as it stands in the hash: [[budget, bucket, nanos], ...]."""
    return msgspec.json.encode([(share.budget, share.bucket_s, share.reserved_nanos) for share in shares]).decode()


def wanted(want: Want, now_s: float) -> dict[str, Any]:
    """What `reserve.lua` wants to know of a budget. Money is a string, since Lua would make a double of it."""
    budget = want.budget
    asked: dict[str, Any] = {"name": budget.name, "limit": str(budget.limit_nanos), "nanos": str(want.nanos)}
    if budget.rolling_s:
        return {**asked, "width": budget.width_s, "count": ROLLING_BUCKETS}
    return {**asked, "edges": budget.edges_around(now_s)}


class Holds:
    """What is reserved for the exchanges of one worker, from before it is asked for until its record is in the counters."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[Share, ...] | None] = {}
        self._recorded: deque[tuple[int, str]] = deque()
        self.unheard = 0
        """The newest record whose reservation had no answer: what may be held for those up to it is not to go before it is applied."""

    def __repr__(self) -> str:
        return f"<Holds open={len(self._open)}>"

    def __len__(self) -> int:
        return len(self._open)

    @property
    def still_open(self) -> StillOpen:
        """What may be held for this worker's exchanges."""
        return self._open

    def asking(self, exchange_id: str) -> None:
        """A reservation is about to be asked for."""
        self._open[exchange_id] = None

    def held(self, exchange_id: str, shares: tuple[Share, ...]) -> None:
        """It was granted."""
        self._open[exchange_id] = shares

    def refused(self, exchange_id: str) -> None:
        """It was not, and nothing is held."""
        self._open.pop(exchange_id, None)

    def recorded(self, exchange_id: str, number: int) -> None:
        """The record is in the journal under this number; until it is applied, what is held stays.

        One whose answer was never heard is forgotten, or an outage of the store would fill the memory. Should something be held
        for it, the store tells it as a stranger's.
        """
        if exchange_id not in self._open:
            return
        if self._open[exchange_id] is None:
            del self._open[exchange_id]
            self.unheard = number
        else:
            self._recorded.append((number, exchange_id))

    def applied(self, number: int) -> None:
        """Everything up to this number is in the counters, and settled with it."""
        while self._recorded and self._recorded[0][0] <= number:
            self._open.pop(self._recorded.popleft()[1], None)
