"""Two replicas on one Redis before a simulator, and traffic through both: what the servers of this folder watch."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chaos.stage import RedisServer
from e2e.stack import Proxy, Simulator

from proxy.simulator.traffic import App, run_traffic
from proxy.usage import Purpose

APPS = (  # nobody leaves in the middle: one who goes at the very end is billed and was not told the usage
    App("one", weight=3, streamed_share=0.3),
    App("two", weight=2, purpose=Purpose.VALIDATION, streamed_share=0.2),
)
HOLD_S = 15.0
"""As installed: shorter would hide what it is for."""


class Installation:
    """A Redis, a simulator, and replicas `r0`, `r1`, … of two workers each."""

    def __init__(self, folder: Path, scenario: Path, toml: str = "") -> None:
        self._folder = folder
        self._toml = toml
        self.redis = RedisServer(folder / "redis")
        self.redis.start()
        self.simulator = Simulator(folder, scenario=scenario)
        self.replicas: list[Proxy] = []
        for _ in range(2):
            self.add_replica()
        for replica in self.replicas:
            replica.wait_ready()

    def add_replica(self) -> Proxy:
        """Start one more, with a data directory and ports of its own."""
        folder = self._folder / f"r{len(self.replicas)}"
        folder.mkdir()
        replica = Proxy(folder, self.simulator.url, workers=2, redis=self.redis_url, toml=self._toml, hold_s=HOLD_S)
        self.replicas.append(replica)
        return replica

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.redis.port}/0"

    @property
    def consoles(self) -> list[str]:
        """Where living replicas are scraped."""
        return [replica.console for replica in self.replicas if replica.child.poll() is None]

    def billed(self) -> list[dict[str, Any]]:
        """What the simulator billed for exchanges that were answered to their end."""
        return self.simulator.ledger()["completed"]

    def stop(self) -> None:
        """End everything."""
        for process in (*self.replicas, self.simulator):
            process.stop()
        self.redis.client.close()
        self.redis.stop()


class Traffic:
    """Requests to one replica, from a thread, until it is told to stop."""

    def __init__(self, url: str, rate_per_second: float, models: dict[str, float], seed: int) -> None:
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        sending = run_traffic(
            url, rate_per_second=rate_per_second, apps=APPS, models=models, seed=seed, stop=self._stop
        )
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(sending))
        self._thread.start()

    def stop(self) -> None:
        """No more requests; returns when those under way have ended. A second call does nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._loop.close()


@contextmanager
def ending(*things: Any) -> Iterator[None]:
    """Stop these at the end, in this order, whatever happens."""
    try:
        yield
    finally:
        for thing in things:
            thing.stop()
