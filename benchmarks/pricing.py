"""What it costs to tell the version of an exchange and its price: every version in force in turn, both currencies.

Part of `make bench`; alone: `python -m benchmarks.pricing`. CPU of this process where nothing else runs; the exchanges are
at random, so that no price is found because it was just looked for; all of them have one.
"""

import random
import sys
import time
from datetime import UTC, datetime
from typing import Final, NamedTuple

from proxy.catalog_files import builtin_catalog
from proxy.pricing.catalog import Catalog, in_force
from proxy.pricing.cost import price_usage
from proxy.pricing.versions import resolve
from proxy.usage import TokenUsage

MOST_US: Final = 15.0
EXCHANGES: Final = 20_000
RUNS: Final = 10
DAY_S: Final = 86_400


class Asked(NamedTuple):
    """What an exchange offers as evidence."""

    model: str
    served: str
    fingerprint: str
    at_s: float


def exchanges(catalog: Catalog, count: int) -> list[Asked]:
    """Those that have a price, by name or by fingerprint; on random seconds of November 2026, peak windows among them."""
    chance = random.Random(5)
    begun_s = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    priced = [(version, names) for version, names in in_force(catalog, begun_s) if version in catalog.sheets]
    names = [name for _, named in priced for name in named]
    versions = {version for version, _ in priced}
    fingerprints = ["", *(key for key, version in catalog.fingerprints.items() if version in versions)]
    found = []
    for _ in range(count):
        name = chance.choice(names)
        found.append(Asked(name, name, chance.choice(fingerprints), begun_s + chance.random() * 30 * DAY_S))
    return found


def both_us(catalog: Catalog, asked: list[Asked]) -> float:
    """Microseconds of CPU per exchange, at best of some runs."""
    return min(_run_s(catalog, asked) for _ in range(RUNS)) / len(asked) * 1e6


def _run_s(catalog: Catalog, asked: list[Asked]) -> float:
    usage, begun_s = TokenUsage(1280, 419, 310, 77), time.process_time()
    for one in asked:
        found = resolve(
            catalog,
            upstream="default",
            requested=one.model,
            served=one.served,
            fingerprint=one.fingerprint,
            at_s=one.at_s,
            api="anthropic",
        )
        price_usage(catalog, usage, found.version, one.at_s, model=one.model)
    return time.process_time() - begun_s


def report() -> bool:
    """Print it; True if the goal is met."""
    catalog = builtin_catalog()
    took = both_us(catalog, exchanges(catalog, EXCHANGES))
    met = took <= MOST_US
    print(
        f"{'met' if met else 'MISSED'}: version and price take at most {MOST_US:.0f} µs of CPU per exchange; measured {took:.1f}"
    )
    return met


if __name__ == "__main__":
    sys.exit(0 if report() else 1)
