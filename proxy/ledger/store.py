"""The store: Redis, and the only place that talks to it.

Every key begins with `{meter:NAMESPACE}`, one hash slot, so that the apply script also runs on a cluster. What the keys
hold is described where it is made (`tally`, `apply.lua`) and where it is shown (`console`). Errors of the client library
become StoreUnavailableError here and nowhere else.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any, Final, cast

import msgspec
import redis.asyncio as redis
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisError

from proxy.errors import StoreUnavailableError
from proxy.ledger.answers import (
    Applied,
    Behind,
    Books,
    Change,
    Held,
    Position,
    PutRight,
    RefusedBatch,
    Result,
    Snapshot,
    Unsettled,
    UsedUp,
    Want,
    change_of,
)
from proxy.ledger.audit_stream import AuditStream
from proxy.ledger.budgets import StillOpen, holds_hash, holds_text, wanted
from proxy.ledger.places import Asked
from proxy.ledger.redis_clients import CLIENT_ERRORS, AnyRedis, client_of, said_of
from proxy.ledger.revisions import Numbered, Offer, settlement
from proxy.ledger.tally import BUDGETS, Batch, budget_hash
from proxy.pricing.revisions import Place
from proxy.usage import Share

OLDEST_VERSION: Final = (6, 2)

Script = Callable[[Sequence[str], Sequence[str | bytes]], Awaitable[Any]]
"""Runs a script with the names of its keys and its arguments. Raises StoreUnavailableError."""


class Store:
    """Counters, records and journal numbers in one Redis, under one namespace."""

    def __init__(
        self, client: AnyRedis, namespace: str, records_kept: int, sentinels: Sequence[redis.Redis] = ()
    ) -> None:
        self._redis: Any = client
        self._sentinels = sentinels
        self._prefix = f"{{meter:{namespace}}}:"
        self._records_kept = str(records_kept)
        self._apply, self._compare, self._snapshot, self._settle, self._places, self._reserve, self._hold = (
            client.register_script(_script(name))
            for name in ("apply", "compare", "snapshot", "settle", "places", "reserve", "hold")
        )
        self._clock = client.register_script(_TIME)
        self.audit = AuditStream(client, client.register_script(_script("audit")), self._prefix, _translated)

    def __repr__(self) -> str:
        return f"<Store {self._prefix}>"

    def key(self, name: str) -> str:
        """The key of a name, e.g. `totals`."""
        return self._prefix + name

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._redis, *self._sentinels):
            await client.aclose()

    def script(self, source: bytes) -> Script:
        """A script of a subject that has its own module; its keys are names, as `key` takes them."""
        found = self._redis.register_script(source)

        async def run(names: Sequence[str], arguments: Sequence[str | bytes]) -> Any:
            async with _translated():
                return await found(keys=[self.key(name) for name in names], args=arguments)

        return run

    async def prepare(self) -> int:
        """Check that this Redis will do and give it an epoch if it has none; the epoch.

        Raises StoreUnavailableError for one that cannot be reached, refuses us, or is older than 6.2.
        """
        async with _translated():
            info = await self._info("server")
            version = tuple(int(part) for part in str(info["redis_version"]).split(".")[:2])
            if version < OLDEST_VERSION:
                raise StoreUnavailableError(f"Redis {info['redis_version']} is too old: 6.2 or newer is needed")
        return (await self.compare("", 0, 0)).epoch

    async def doubts(self) -> list[str]:
        """What speaks against keeping money in this Redis: it may evict keys, or does not persist."""
        async with _translated():
            memory = await self._info("memory")
            persistence = await self._info("persistence")
            save = await self._save_points()
        found = []
        if memory.get("maxmemory", 0) and memory.get("maxmemory_policy") != "noeviction":
            found.append(f"it may evict keys (maxmemory-policy {memory['maxmemory_policy']}); set noeviction")
        if not persistence.get("aof_enabled") and not save:
            found.append("it does not persist (no append-only file, no save points); set appendonly yes")
        return found

    async def apply(self, batch: Batch, epoch: int = 0, *, replayed: bool = False) -> Result:
        """Add a batch to the counters, once. Raises StoreUnavailableError; the batch may then be applied or not.

        `epoch` is the history the sender knows; in another one nothing is applied. `replayed`: it was applied before,
        and Redis has forgotten it.
        """
        keys = [self.key(f"journal:{batch.journal_id}"), *map(self.key, _FIXED_KEYS)]
        keys += [self.key(addition.hash) for addition in batch.additions]
        holds = self.key(holds_hash(batch.journal_id))
        document = _document(
            batch, self._records_kept, epoch, holds=holds, budgets=self.key(BUDGETS), replayed=replayed
        )
        async with _translated():
            answer = await self._apply(keys=keys, args=[document])
        return _result(answer)

    async def settle(self, place: Place, offer: Offer, at_s: float) -> Numbered:
        """The number of a fingerprint among those of its version, and what is new by it; see `settle.lua`.

        `offer` is what the asker remembers, `at_s` when the fingerprint was seen.
        """
        keys = [self.key(name) for name in ("revisions", "changes", "totals", "series_seen")]
        async with _translated():
            number, *changes = await self._settle(keys=keys, args=[settlement(place, offer, at_s)])
        return Numbered(int(number), tuple(kind.decode() for kind in changes))

    async def reserve(self, journal_id: str, exchange_id: str, wants: Sequence[Want], now_s: float) -> Held | UsedUp:
        """Hold what an exchange may cost in every budget that it counts in, or nothing; see `reserve.lua`.

        Asked again for the same exchange, the answer is the same. Redis' clock decides the period; `now_s` is near it.
        """
        keys = [self.key(holds_hash(journal_id)), *(self.key(budget_hash(want.budget.name)) for want in wants)]
        async with _translated():
            asked = {"id": exchange_id, "wanted": [wanted(want, now_s) for want in wants]}
            answer = await self._reserve(keys=keys, args=[msgspec.json.encode(asked)])
        if answer[0] == b"held":
            return Held(msgspec.json.decode(answer[1], type=tuple[Share, ...]))
        number, spent, held, free_s = (int(value) for value in answer[1:])
        return UsedUp(wants[number - 1].budget.name, spent, held, free_s)

    async def hold(
        self, journal_id: str, still_open: StillOpen, prune: Mapping[str, int], over: Sequence[str] = ()
    ) -> PutRight:
        """Hold what is open in a journal, and give back what is held for exchanges that are over.

        None stands for an exchange whose reservation nobody heard the answer of. `prune`: of a budget, the first bucket
        that is still of use. See `hold.lua`.
        """
        texts = {name: "" if held is None else holds_text(held) for name, held in still_open.items()}
        said = msgspec.json.encode({"open": texts, "over": over, "prune": list(prune.items())})
        async with _translated():
            word, *found = await self._hold(keys=[self.key(holds_hash(journal_id))], args=[self.key(BUDGETS), said])
        if word == b"refused":
            return PutRight(refused=found[0].decode())
        again, back, strangers = found
        return PutRight(int(again), int(back), tuple(name.decode() for name in strangers))

    async def places(self, kinds: Sequence[str], asked: Asked) -> Sequence[int]:
        """1 for each that has a place among those of the first kind, else 0; the others share its room. See `places.lua`."""
        async with _translated():
            keys = [self.key(f"places:{kind}") for kind in kinds]
            found = await self._places(keys=keys, args=[msgspec.json.encode(asked)])
        return [int(one) for one in found]

    async def compare(self, journal_id: str, epoch: int, highest: int) -> Position:
        """Where the store stands with a journal of which `highest` was the last number ever applied, in `epoch`.

        A store without an epoch gets one. Where it was wiped, the journal's numbering goes on behind `highest`.
        """
        keys = [self.key(name) for name in ("epoch", "numbers", "history", "bases")]
        async with _translated():
            found = await self._compare(keys=keys, args=[journal_id, str(epoch), str(highest)])
        return Position(int(found[0]), int(found[1]), wiped=found[2] == b"wiped", went_back=found[2] == b"went back")

    async def numbers(self) -> dict[str, int]:
        """The last number applied of every journal."""
        async with _translated():
            return _integers(await _awaited(self._redis.hgetall(self.key("numbers"))))

    async def begin_behind(self, journal_id: str, number: int) -> None:
        """Let the numbering of a journal that the store does not know begin behind a number."""
        async with _translated():
            await _awaited(self._redis.hsetnx(self.key("numbers"), journal_id, number))
            await _awaited(self._redis.hsetnx(self.key("bases"), journal_id, number))

    async def books(self, journal_ids: Sequence[str]) -> Books:
        """Numbers, bases, running sums and totals, all at one instant."""
        names = ("epoch", "history", "numbers", "bases", "totals", *(f"journal:{name}" for name in journal_ids))
        async with _translated():
            answer = await self._snapshot(keys=[self.key(name) for name in names])
        numbers, bases, totals, *sums = map(_as_mapping, answer[4:])
        by_journal = {name: _integers(found) for name, found in zip(journal_ids, sums, strict=True)}
        return Books(_integers(numbers), _integers(bases), totals, by_journal)

    async def snapshot(self, spend_hashes: tuple[str, ...] = (), budgets: tuple[str, ...] = ()) -> Snapshot:
        """All counters at one instant, and the spend hashes and the budgets asked for."""
        named = (*spend_hashes, *map(budget_hash, budgets))
        names = ("epoch", "history", "totals", "series_seen", "sightings", "numbers", *named)
        async with _translated():
            answer = await self._snapshot(keys=[self.key(name) for name in names])
        seconds, micros, epoch, history, *hashes = answer
        totals, seen, sightings, numbers, *rest = map(_as_mapping, hashes)
        spend, found = rest[: len(spend_hashes)], rest[len(spend_hashes) :]
        taken_s = int(seconds) + int(micros) / 1e6
        return Snapshot(taken_s, int(epoch), totals, seen, sightings, tuple(spend), int(history), numbers, tuple(found))

    async def hash(self, name: str) -> Mapping[bytes, bytes]:
        """The fields of a hash, such as a rollup; empty where there is none of this name."""
        async with _translated():
            return cast("Mapping[bytes, bytes]", await _awaited(self._redis.hgetall(self.key(name))))

    async def hashes(self, names: Sequence[str]) -> tuple[Mapping[bytes, bytes], ...]:
        """Several hashes as they stood at one instant, such as the rollups of a day; empty where there is none.

        Redis does nothing else meanwhile: ask for what has to agree, not for everything at once.
        """
        async with _translated():
            answer = await self._snapshot(keys=[self.key(name) for name in ("epoch", "history", *names)])
        return tuple(map(_as_mapping, answer[4:]))

    async def changes(self) -> list[Change]:
        """Every change that is kept, oldest first."""
        async with _translated():
            found = await _awaited(self._redis.xrange(self.key("changes")))
        return [change_of({name.decode(): value.decode() for name, value in fields.items()}) for _, fields in found]

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
            seconds, micros = await self._clock(keys=[self.key("epoch")])
        return now_s - (int(seconds) + int(micros) / 1e6)

    async def _info(self, section: str) -> Any:
        """INFO of the node that holds our keys."""
        if isinstance(self._redis, RedisCluster):
            node = (await self._redis.initialize()).get_node_from_key(self.key("epoch"))
            return await self._redis.info(section, target_nodes=node)
        return await self._redis.info(section)

    async def _save_points(self) -> str:
        """`save` of the configuration; where CONFIG is not allowed, as on hosted Redis, the host takes care of it."""
        try:
            return str((await self._redis.config_get("save")).get("save", ""))
        except RedisError:
            return "unknown"


_FIXED_KEYS: Final = (
    "series_seen",
    "sightings",
    "records",
    "record_index",
    "quarantine",
    "numbers",
    "epoch",
    "revisions",
)
_TIME: Final = "return redis.call('TIME')"


_NO_URL: Final = (
    "[store] redis_url: not a URL of the form redis://[USER:PASSWORD@]HOST:PORT/DATABASE (or rediss), "
    "redis+cluster://[USER:PASSWORD@]HOST:PORT (or rediss+cluster), unix:///PATH, or "
    "redis+sentinel://[USER:PASSWORD@]HOST:PORT,HOST:PORT/SERVICE[/DATABASE] (or rediss+sentinel); "
    "special characters of a password are written as %XX: %23 for #, %2F for /"
)


def connect(url: str, namespace: str, records_kept: int, **timeouts: float) -> Store:
    """The store at `url`; nothing is sent before the first call. Raises StoreUnavailableError for a URL that is none.

    redis://, rediss:// and unix:// as redis-py has them; redis+cluster:// and rediss+cluster:// for a cluster;
    redis+sentinel://[user:password@]host:port,host:port/SERVICE[/DATABASE] (also rediss+) for a Redis that sentinels
    watch over: user and password are those of the Redis, which the sentinels name.
    """
    try:
        client, sentinels = client_of(url, **timeouts)
    except (ValueError, TypeError, *CLIENT_ERRORS):
        raise StoreUnavailableError(_NO_URL) from None  # the library quotes what it stumbles over, of a password too
    return Store(client, namespace, records_kept, sentinels)


def _script(name: str) -> bytes:
    return resources.files(__package__).joinpath(f"{name}.lua").read_bytes()


def _as_mapping(flat: Sequence[bytes]) -> Mapping[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _document(batch: Batch, kept: str, epoch: int, *, holds: str, budgets: str, replayed: bool) -> bytes:
    """The script's one argument. Every number is a string, since Lua would make doubles of them."""
    return msgspec.json.encode(
        {
            "journal": batch.journal_id,
            "epoch": str(epoch),
            "replayed": replayed,
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
            "relied_on": _flat(batch.relied_on),
            "kept": kept,
            "settled": batch.settled,
            "holds": holds,
            "budgets": budgets,
        }
    )


def _integers(found: Mapping[bytes, bytes]) -> dict[str, int]:
    return {name.decode(): int(value) for name, value in found.items()}


def _flat(fields: Mapping[str, int]) -> list[str]:
    return [text for field, value in fields.items() for text in (field, str(value))]


def _result(answer: list[bytes]) -> Result:
    word, detail = answer
    if word == b"applied":
        return Applied(int(detail))
    if word == b"behind":
        return Behind(int(detail))
    if word == b"unsettled":
        return Unsettled(detail.decode())
    return RefusedBatch(detail.decode())


async def _awaited(value: Awaitable[Any] | Any) -> Any:
    """redis-py types its commands as either an answer or an awaitable of one; ours are always the latter."""
    return await cast("Awaitable[Any]", value)


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
    try:
        yield
    except (*CLIENT_ERRORS, OSError, TimeoutError) as error:
        raise StoreUnavailableError(f"Redis: {said_of(error)}") from error
