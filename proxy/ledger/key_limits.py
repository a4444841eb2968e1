"""The limits of client keys over all workers and replicas: one script call in Redis, for keys that have limits and no others.

A request takes a *lease* and gives it back when its exchange ends. Leases lapse by themselves when a worker dies; a living
one renews those of its open exchanges. While Redis is away, each worker applies the limits to what it has let in itself.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from importlib import resources
from typing import Final, NamedTuple

import structlog

from proxy.errors import KeysUnavailableError, LimitReachedError, StoreUnavailableError
from proxy.ledger.client_keys import ClientKey
from proxy.ledger.store import Store

MINUTE_S: Final = 60.0
LEASE_S: Final = 30.0
RENEW_EVERY_S: Final = 10.0
RELEASE_WAIT_S: Final = 0.5
"""How long the end of a response may wait until its lease is given back, so that a client's next request finds it free."""

ASK_WAIT_S: Final = 1.0
"""How long a request waits for Redis' word before this worker decides by itself."""

AT_ONCE: Final = 32
"""Calls to Redis at a time, so that a burst of requests opens no connection each."""

TAKE: Final = resources.files(__package__).joinpath("key_limits.lua").read_bytes()
RELEASE: Final = b"for i = 1, #KEYS do redis.call('ZREM', KEYS[i], ARGV[i]) end return 1"
RENEW: Final = b"""
local time = redis.call('TIME')
local lapses = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]) + tonumber(ARGV[1]))
for i = 1, #KEYS do
  redis.call('ZADD', KEYS[i], lapses, ARGV[i + 1])
  redis.call('PEXPIRE', KEYS[i], math.ceil(tonumber(ARGV[1]) / 1000))
end
return 1
"""

log = structlog.get_logger(__name__)


class Verdict(NamedTuple):
    """Whether a request is let in (`in`), or which limit says no (`rate`, `open`) and for how long, if that is known."""

    word: str
    wait_s: float = 0.0


class LocalLimits:
    """What this worker has let in, by key: requests of the last minute and open exchanges. Pure; `now_s` is monotonic."""

    def __init__(self) -> None:
        self._minute: dict[str, deque[float]] = {}
        self._open: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<LocalLimits of {len(self._minute)} keys>"

    def verdict(self, key: ClientKey, now_s: float) -> Verdict:
        """What the limits say to one more request."""
        if key.concurrent and self._open.get(key.id, 0) >= key.concurrent:
            return Verdict("open")
        minute = self._of_the_minute(key.id, now_s)
        if key.requests_per_minute and len(minute) >= key.requests_per_minute:
            return Verdict("rate", minute[len(minute) - key.requests_per_minute] + MINUTE_S - now_s)
        return Verdict("in")

    def enter(self, key: ClientKey, now_s: float) -> None:
        """One more was let in."""
        if key.requests_per_minute:
            self._of_the_minute(key.id, now_s).append(now_s)
        self._open[key.id] = self._open.get(key.id, 0) + 1

    def leave(self, key: ClientKey) -> None:
        """One has ended."""
        left = self._open.get(key.id, 0) - 1
        if left > 0:
            self._open[key.id] = left
        else:
            self._open.pop(key.id, None)

    def _of_the_minute(self, key_id: str, now_s: float) -> deque[float]:
        minute = self._minute.setdefault(key_id, deque())
        while minute and minute[0] <= now_s - MINUTE_S:
            minute.popleft()
        return minute


class Lease:
    """One request's place under the limits of its key. To be released whether it was taken or not."""

    def __init__(self, limiter: "Limiter", key: ClientKey, lease_id: str) -> None:
        self._limiter = limiter
        self.key = key
        self.lease_id = lease_id
        self.entered = False
        self.asked = False

    def __repr__(self) -> str:
        return f"<Lease {self.lease_id} of {self.key.id} entered={self.entered}>"

    async def take(self) -> None:
        """Be let in. Raises LimitReachedError, and KeysUnavailableError where only Redis may decide and does not answer."""
        await self._limiter.take(self)

    async def release(self) -> None:
        """Give it back. Returns within half a second; a store that is slower gets it later, or the lease lapses."""
        await self._limiter.release(self)


class Limiter:
    """The limits as one worker applies them."""

    def __init__(
        self,
        store: Store,
        *,
        answers: Callable[[], bool],
        on_store_down: str,
        monotonic_s: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        """`answers` says whether the store did when it was last asked: one that does not is not waited for by requests."""
        self._take, self._release, self._renew = (store.script(source) for source in (TAKE, RELEASE, RENEW))
        self._answers = answers
        self._on_store_down = on_store_down
        self._monotonic_s = monotonic_s
        self._new_id = new_id
        self._local = LocalLimits()
        self._leases: set[Lease] = set()
        self._calls = asyncio.Semaphore(AT_ONCE)
        self._alone = False
        self.decided_alone = 0

    def __repr__(self) -> str:
        return f"<Limiter leases={len(self._leases)} alone={self._alone}>"

    def lease(self, key: ClientKey | None) -> Lease | None:
        """A lease to be taken; None for a key without limits, which costs no call."""
        return Lease(self, key, self._new_id()) if key is not None and key.is_limited else None

    async def take(self, lease: Lease) -> None:
        """See `Lease.take`."""
        verdict = await self._ask(lease) if self._answers() else None
        self._note_alone(alone=verdict is None)
        if verdict is None:
            verdict = self._decide_alone(lease.key)
        elif verdict.word != "in":
            lease.asked = False  # Redis has written nothing: there is nothing to give back
        if verdict.word != "in":
            raise _refusal(lease.key, verdict)
        self._local.enter(lease.key, self._monotonic_s())
        lease.entered = True
        self._leases.add(lease)

    async def release(self, lease: Lease) -> None:
        """See `Lease.release`."""
        if lease.entered:
            lease.entered = False
            self._leases.discard(lease)
            self._local.leave(lease.key)
        if not lease.asked or not lease.key.concurrent or not self._answers():
            return
        try:
            async with asyncio.timeout(RELEASE_WAIT_S), self._calls:
                await self._release([_open_name(lease.key)], [lease.lease_id])
        except (StoreUnavailableError, TimeoutError):
            return  # it lapses

    async def run(self) -> None:
        """Renew the leases of open exchanges, for ever."""
        while True:
            await asyncio.sleep(RENEW_EVERY_S)
            await self.renew()

    async def renew(self) -> None:
        """One round. A lease that was given back meanwhile is given back again: it may have been renewed behind that."""
        leases = [lease for lease in self._leases if lease.key.concurrent]
        if not leases:
            return
        names = [_open_name(lease.key) for lease in leases]
        try:
            await self._renew(names, [_micros(LEASE_S), *(lease.lease_id for lease in leases)])
            gone = [(name, lease.lease_id) for name, lease in zip(names, leases, strict=True) if not lease.entered]
            if gone:
                await self._release([name for name, _ in gone], [lease_id for _, lease_id in gone])
        except StoreUnavailableError:
            return  # the next round does it

    async def _ask(self, lease: Lease) -> Verdict | None:
        """What Redis says; None where it does not."""
        key, lease.asked = lease.key, True
        limits = [str(key.requests_per_minute), str(key.concurrent), lease.lease_id, _micros(LEASE_S)]
        try:
            async with asyncio.timeout(ASK_WAIT_S), self._calls:
                word, wait = await self._take([f"key_minute:{key.id}", _open_name(key)], limits)
        except (StoreUnavailableError, TimeoutError):
            return None
        return Verdict(word.decode(), int(wait) / 1e6)

    def _decide_alone(self, key: ClientKey) -> Verdict:
        if self._on_store_down == "refuse":
            raise KeysUnavailableError("The proxy cannot check the limits of this API key now; try again shortly.")
        self.decided_alone += 1
        return self._local.verdict(key, self._monotonic_s())

    def _note_alone(self, *, alone: bool) -> None:
        if alone != self._alone:
            log.warning("key_limits_per_worker" if alone else "key_limits_shared_again")
        self._alone = alone


def _refusal(key: ClientKey, verdict: Verdict) -> LimitReachedError:
    if verdict.word == "open":
        return LimitReachedError(
            f"This API key may have {key.concurrent} requests under way at a time.", "concurrency_limit_reached", 1
        )
    wait_s = max(math.ceil(verdict.wait_s), 1)
    return LimitReachedError(
        f"This API key may make {key.requests_per_minute} requests per minute; the next in {wait_s} s.",
        "rate_limit_reached",
        wait_s,
    )


def _open_name(key: ClientKey) -> str:
    return f"key_open:{key.id}"


def _micros(seconds: float) -> str:
    return f"{seconds * 1e6:.0f}"
