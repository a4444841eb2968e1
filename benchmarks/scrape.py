"""What a scrape of 20,000 series takes: a console of its own process, a Redis that holds them, and `GET /metrics`.

Part of `make bench`; alone: `python -m benchmarks.scrape`. Every scrape here finds a snapshot that is too old, so each one reads all
of it from Redis. No worker is asked for anything: what they say of themselves comes to the console by itself.
"""

import asyncio
import statistics
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Final

from aiohttp import web

from proxy.catalog_files import builtin_catalog
from proxy.console.app import SNAPSHOT_S, Console, Upstreams
from proxy.console.workers import Workers
from proxy.ledger import embedded
from proxy.ledger.families import series_field
from proxy.ledger.store import connect
from proxy.ledger.tally import Additions, Batch
from proxy.settings import Settings, StoreSettings
from proxy.usage import KINDS

SERIES: Final = 20_000
SCRAPES: Final = 7
MOST_S: Final = 1.0


def fields(count: int) -> dict[str, int]:
    """So many series, as the store keeps them."""
    places = (("default", f"V{version}", f"m{model}") for version in range(50) for model in range(100))
    every = (series_field("tokens_total", *place, kind, "reported") for place in places for kind in KINDS)
    return {name: 1_000_000 for _, name in zip(range(count), every, strict=False)}


async def scraped(url: str, folder: str) -> tuple[list[float], int]:
    """Seconds of each scrape, and the lines of the last one."""
    store = connect(url, "scrape", 0)
    await store.prepare()
    every = list(fields(SERIES).items())
    for first in range(0, SERIES, 2000):
        batch = Batch(
            "j",
            first // 2000 + 1,
            first // 2000 + 1,
            [Additions("totals", 0, dict(every[first : first + 2000]))],
            {},
            {},
            [],
            [],
        )
        await store.apply(batch)
    console = Console(
        Settings(store=StoreSettings(data_dir=folder)),
        store,
        builtin_catalog,
        Workers(),
        upstreams=Upstreams({}, {}),
        wall_s=time.time,
    )
    runner = web.AppRunner(console.app())
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    took, lines = [], 0
    for _ in range(SCRAPES):
        await asyncio.sleep(SNAPSHOT_S * 1.1)
        begun_s = time.monotonic()
        lines = await asyncio.to_thread(_get, f"http://127.0.0.1:{port}/metrics")
        took.append(time.monotonic() - begun_s)
    await runner.cleanup()
    await store.close()
    return took, lines


def _get(url: str) -> int:
    with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310 - loopback
        return int(response.read().count(b"\n"))


def report() -> bool:
    """Print it; True if the goal is met."""
    with tempfile.TemporaryDirectory() as folder:
        server = embedded.start(Path(folder), embedded.find_server())
        try:
            took, lines = asyncio.run(scraped(server.url, folder))
        finally:
            server.stop()
    middle = statistics.median(took)
    met = middle <= MOST_S
    print(
        f"{'met' if met else 'MISSED'}: a scrape of {SERIES:,} series ({lines:,} lines) takes at most {MOST_S:g} s; "
        f"measured {middle:.2f} ({min(took):.2f} - {max(took):.2f})"
    )
    return met


if __name__ == "__main__":
    sys.exit(0 if report() else 1)
