"""What it adds to an exchange to reserve in its budgets: one call of a local Redis for two budgets, a calendar and a rolling one.

Part of `make bench`; alone: `python -m benchmarks.reserve`. Exchanges come one after the other, as they do in a worker that is not
busy: the wait is what is looked at, not how many fit. Where no budget is for an exchange nothing is asked, which a test holds.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import uvloop

from proxy.ledger import embedded
from proxy.ledger.answers import Held, Want
from proxy.ledger.store import Store, connect
from proxy.pricing.budgets import Budget

CALLS: Final = 4000
MOST_MS: Final = 1.0
BUDGETS: Final = (
    Budget("calendar", 10**15, "USD", refuses=True),
    Budget("rolling", 10**15, "USD", rolling_s=86_400, refuses=True),
)


async def waits_ms(url: str) -> list[float]:
    """Milliseconds of each reservation, in order of their length."""
    store = connect(url, "reserve", 0)
    await store.prepare()
    try:
        await _reserve(store, "warm")
        return sorted([await _reserve(store, f"x{number}") for number in range(CALLS)])
    finally:
        await store.close()


async def _reserve(store: Store, exchange_id: str) -> float:
    begun_s = time.perf_counter()
    answer = await store.reserve("j", exchange_id, [Want(budget, 1000) for budget in BUDGETS], time.time())
    assert isinstance(answer, Held)
    return (time.perf_counter() - begun_s) * 1000


def report() -> bool:
    """Print it; True if the goal is met."""
    with tempfile.TemporaryDirectory() as folder:
        server = embedded.start(Path(folder), embedded.find_server())
        try:
            waits = uvloop.run(waits_ms(server.url))
        finally:
            server.stop()
    middle, slow = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    met = slow <= MOST_MS
    print(
        f"{'met' if met else 'MISSED'}: to reserve in two budgets takes at most {MOST_MS:g} ms (99 of 100); "
        f"measured {slow:.2f}, half of them {middle:.2f}"
    )
    return met


if __name__ == "__main__":
    sys.exit(0 if report() else 1)
