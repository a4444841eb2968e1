"""The store: Redis, and the only place that talks to it.

Every key begins with `{meter:NAMESPACE}`, one hash slot, so that the apply script also runs on a cluster. What the keys
hold is described where it is made (`tally`, `apply.lua`) and where it is shown (`console`). Errors of the client library
become StoreUnavailableError here and nowhere else.
"""

from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Final, NamedTuple, cast

import msgspec
import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from proxy.errors import StoreUnavailableError
from proxy.ledger.tally import Batch

OLDEST_VERSION: Final = (6, 2)

_QUICK: Final = {"connect_timeout": 3.0, "operation_timeout": 10.0}


class Applied(NamedTuple):
    """The batch is in the counters."""

    last: int


class Behind(NamedTuple):
    """The batch's numbers do not follow on the one that is stored; nothing was changed."""

    stored: int


class RefusedBatch(NamedTuple):
    """The batch holds something that cannot be added; nothing was changed."""

    reason: str


class Snapshot(msgspec.Struct, frozen=True):
    """The counters as they stood at one instant of Redis' clock. Fields as in `families`, values as stored."""

    taken_s: float
    epoch: int
    totals: Mapping[bytes, bytes]
    series_seen_ms: Mapping[bytes, bytes]
    sightings: Mapping[bytes, bytes]
    spend: tuple[Mapping[bytes, bytes], ...]


class Store:
    """Counters, records and journal numbers in one Redis, under one namespace."""

    def __init__(self, client: "redis.Redis", namespace: str, records_kept: int) -> None:
        self._redis = client
        self._prefix = f"{{meter:{namespace}}}:"
        self._records_kept = str(records_kept)
        self._apply = client.register_script(resources.files(__package__).joinpath("apply.lua").read_bytes())

    def __repr__(self) -> str:
        return f"<Store {self._prefix}>"

    def key(self, name: str) -> str:
        """The key of a name, e.g. `totals`."""
        return self._prefix + name

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def prepare(self) -> int:
        """Check that this Redis will do and give it an epoch if it has none; the epoch.

        Raises StoreUnavailableError for one that cannot be reached, refuses us, or is older than 6.2.
        """
        async with _translated():
            info = await self._redis.info("server")
            version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
            if version < OLDEST_VERSION:
                raise StoreUnavailableError(f"Redis {info['redis_version']} is too old: 6.2 or newer is needed")
            now = (await self._redis.time())[0]
            await self._redis.set(self.key("epoch"), now, nx=True)
            return int(await self._redis.get(self.key("epoch")) or now)

    async def doubts(self) -> list[str]:
        """What speaks against keeping money in this Redis: it may evict keys, or does not persist."""
        async with _translated():
            memory = await self._redis.info("memory")
            persistence = await self._redis.info("persistence")
            save = await self._save_points()
        found = []
        if memory.get("maxmemory", 0) and memory.get("maxmemory_policy") != "noeviction":
            found.append(f"it may evict keys (maxmemory-policy {memory['maxmemory_policy']}); set noeviction")
        if not persistence.get("aof_enabled") and not save:
            found.append("it does not persist (no append-only file, no save points); set appendonly yes")
        return found

    async def apply(self, batch: Batch) -> Applied | Behind | RefusedBatch:
        """Add a batch to the counters, once. Raises StoreUnavailableError; the batch may then be applied or not."""
        keys = [self.key(f"journal:{batch.journal_id}"), *map(self.key, _FIXED_KEYS)]
        keys += [self.key(addition.hash) for addition in batch.additions]
        async with _translated():
            answer = await self._apply(keys=keys, args=[_document(batch, self._records_kept)])
        return _result(answer)

    async def stored_number(self, journal_id: str) -> int:
        """The number of the last record of a journal that is in the counters; 0 for none."""
        async with _translated():
            found = await _awaited(self._redis.hget(self.key(f"journal:{journal_id}"), "number"))
        return int(found or 0)

    async def snapshot(self, spend_hashes: tuple[str, ...] = ()) -> Snapshot:
        """All counters at one instant, and the spend hashes asked for."""
        async with _translated(), self._redis.pipeline(transaction=True) as pipe:
            pipe.time()
            pipe.get(self.key("epoch"))
            for name in ("totals", "series_seen", "sightings", *spend_hashes):
                pipe.hgetall(self.key(name))
            (seconds, micros), epoch, totals, seen, sightings, *spend = await pipe.execute()
        return Snapshot(seconds + micros / 1e6, int(epoch or 0), totals, seen, sightings, tuple(spend))

    async def record(self, exchange_id: str) -> bytes | None:
        """One of the newest records as JSON; None if it is not there (not yet applied, or too old)."""
        async with _translated():
            stream_id = await _awaited(self._redis.hget(self.key("record_index"), exchange_id))
            if stream_id is None:
                return None
            found = await _awaited(self._redis.xrange(self.key("records"), stream_id, stream_id))
        return cast("bytes", found[0][1][b"record"]) if found else None

    async def clock_offset_s(self, now_s: float) -> float:
        """How far `now_s` is ahead of Redis' clock."""
        async with _translated():
            seconds, micros = await self._redis.time()
        return now_s - (seconds + micros / 1e6)

    async def _save_points(self) -> str:
        """`save` of the configuration; where CONFIG is not allowed, as on hosted Redis, the host takes care of it."""
        try:
            return str((await self._redis.config_get("save")).get("save", ""))
        except RedisError:
            return "unknown"


_FIXED_KEYS: Final = ("series_seen", "sightings", "records", "record_index", "quarantine")


def connect(url: str, namespace: str, records_kept: int, **timeouts: float) -> Store:
    """The store at `url` (redis://, rediss://, unix://); nothing is sent before the first call.

    Raises StoreUnavailableError for a URL that is none.
    """
    limits = {**_QUICK, **timeouts}
    try:
        client = redis.Redis.from_url(
            url,
            socket_connect_timeout=limits["connect_timeout"],
            socket_timeout=limits["operation_timeout"],
            # One more try after a connection that Redis had closed; a time-out is not waited for twice.
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
        )
    except ValueError as error:
        raise StoreUnavailableError(f"[store] redis_url: {error}") from error
    return Store(client, namespace, records_kept)


def _document(batch: Batch, kept: str) -> bytes:
    """The script's one argument. Every number is a string, since Lua would make doubles of them."""
    return msgspec.json.encode(
        {
            "first": str(batch.first),
            "last": str(batch.last),
            "additions": [
                {"expires_s": str(addition.expires_s), "fields": _flat(addition.fields)} for addition in batch.additions
            ],
            "sums": _flat(batch.sums),
            "sightings": [
                text
                for field, (first, last) in batch.sightings.items()
                for text in (field, f"{first:.3f}", f"{last:.3f}")
            ],
            "records": [text for pair in batch.records for text in pair],
            "quarantined": batch.quarantined,
            "kept": kept,
        }
    )


def _flat(fields: Mapping[str, int]) -> list[str]:
    return [text for field, value in fields.items() for text in (field, str(value))]


def _result(answer: list[bytes]) -> Applied | Behind | RefusedBatch:
    word, detail = answer
    if word == b"applied":
        return Applied(int(detail))
    if word == b"behind":
        return Behind(int(detail))
    return RefusedBatch(detail.decode())


async def _awaited(value: Awaitable[Any] | Any) -> Any:
    """redis-py types its commands as either an answer or an awaitable of one; ours are always the latter."""
    return await cast("Awaitable[Any]", value)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (RedisError, OSError, TimeoutError) as error:
        raise StoreUnavailableError(f"Redis: {error or type(error).__name__}") from error
