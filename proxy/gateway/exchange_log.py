"""One line per exchange in the log: who asked which version, what it took and how it ended. No content, no key.

A log that nobody reads off (a full pipe) must not hold streams up: a line that cannot be written now is left out, and counted
in the next one that can.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from proxy.gateway.exchange import KeepsRecords
from proxy.pricing.tariff import decimal
from proxy.usage import KINDS, BegunMark, UsageRecord


class LoggedExchanges:
    """Keeps records as another keeper does, and says each of them."""

    def __init__(self, keeper: KeepsRecords, say: Callable[..., object], can_say: Callable[[], bool]) -> None:
        self._keeper = keeper
        self._say = say
        self._can_say = can_say
        self._left_out = 0

    def __repr__(self) -> str:
        return f"<LoggedExchanges left_out={self._left_out}>"

    def begin(self, mark: BegunMark) -> None:
        """Keep the mark of an exchange that begins. Raises RelayError where it may not begin."""
        self._keeper.begin(mark)

    def record(self, record: UsageRecord) -> None:
        """Keep a record, then say it."""
        self._keeper.record(record)
        if not self._can_say():
            self._left_out += 1
            return
        left_out, self._left_out = self._left_out, 0
        self._say("exchange", **facts_of(record), **({"lines_left_out": left_out} if left_out else {}))

    def fault(self, stage: str, error: Exception) -> None:
        """Count and log a fault that the relay went on from."""
        self._keeper.fault(stage, error)


def facts_of(record: UsageRecord) -> Mapping[str, Any]:
    """What a line says of a record: names, counts, cost as decimal strings, seconds."""
    usage = record.usage
    tokens = {} if usage is None else dict(zip(KINDS, msgspec.structs.astuple(usage), strict=True))
    return {
        "id": record.exchange_id,
        "app": record.app,
        "api": record.api.value,
        "model": record.model,
        "version": record.version,
        "upstream": record.upstream,
        "outcome": record.outcome.value,
        "status": record.status,
        "source": record.source.value,
        "tokens": {kind.value: count for kind, count in tokens.items()},
        "cost": {charge.currency: decimal(charge.total_nanos) for charge in record.charges},
        "duration_s": round(record.duration_s, 3),
    }
