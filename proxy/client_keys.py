"""The client keys of one worker in managed mode: keys, limits and entry put together, and their life beside the relay."""

import asyncio
import secrets
import time
from pathlib import Path
from typing import Any, Final

from proxy.child import GatewayOrders
from proxy.gateway.entry import Keys, ManagedEntry
from proxy.ledger.key_files import KeyFiles
from proxy.ledger.key_limits import Limiter
from proxy.ledger.key_ring import SCRIPT, Clocks, KeyRing, may_serve
from proxy.ledger.store import Store
from proxy.settings import Settings

LONGEST_WAIT_S: Final = 1.0
"""A poll that takes longer has failed: the next one may do better."""

NEVER_COMPARED: Final = -1.0


def ring_of(settings: Settings, store: Store, *, keeps_snapshot: bool = True, keeps_changes: bool = True) -> KeyRing:
    """The keys of this installation; nothing is read yet."""
    return KeyRing(
        store.script(SCRIPT),
        KeyFiles(Path(settings.store.data_dir)),
        Clocks(time.time, time.monotonic, lambda: secrets.token_hex(16)),
        maximum_age_s=settings.keys.maximum_cache_age_seconds,
        keeps_snapshot=keeps_snapshot,
        keeps_changes=keeps_changes,
    )


class WorkerKeys:
    """What managed mode adds to a worker."""

    def __init__(self, settings: Settings, orders: GatewayOrders, store: Store) -> None:
        """`store` is this object's own, and closed by it."""
        keys = settings.keys
        self._store = store
        self._ring = ring_of(settings, self._store, keeps_snapshot=orders.slot == 0)
        self._limiter = Limiter(
            self._store,
            answers=lambda: self._ring.answers,
            on_store_down=keys.on_store_down,
            monotonic_s=time.monotonic,
            new_id=lambda: secrets.token_hex(8),
        )
        self._tasks: list[asyncio.Task[None]] = []
        self.entry = ManagedEntry(
            Keys(
                lambda: self._ring.known,
                lambda: may_serve(self._ring.age_s(), keys.on_store_down, keys.maximum_cache_age_seconds),
                self._limiter.lease,
            ),
            orders.hash_secret,
            settings.gateway.open_paths,
            time.time,
        )

    def __repr__(self) -> str:
        return f"<WorkerKeys {self._ring!r} {self._limiter!r}>"

    async def start(self) -> None:
        """Know the keys before the first request comes, from the store or from the data dir."""
        self._ring.load()
        await self._ring.try_refresh()
        self._tasks = [asyncio.create_task(one.run(), name="keys") for one in (self._ring, self._limiter)]

    async def close(self) -> None:
        """End the polling and the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    def figures(self) -> dict[str, Any]:
        """What a worker reports of its keys."""
        age_s = self._ring.age_s()
        return {
            "keys_age_s": age_s if age_s < float("inf") else NEVER_COMPARED,
            "key_refusals": dict(self.entry.refusals),
            "limits_alone": self._limiter.decided_alone,
        }
