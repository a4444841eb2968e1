"""The audit trail in Redis: a stream that is only ever added to, and the script that adds each entry once.

The file is what counts; the stream is the copy that somebody who reaches only the data dir, or only Redis, cannot change along
with it. Where Redis went back or was wiped, its head says so, and the rest is sent again.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import structlog

from proxy.ledger.audit import AuditEntry, Head, encoded
from proxy.ledger.audit_file import AuditFile

BATCH_ENTRIES: Final = 100
READ_AT_ONCE: Final = 1000

log = structlog.get_logger(__name__)


class Copy(NamedTuple):
    """An entry of the stream as it stands there."""

    stream_id: str
    chain: str
    number: str
    entry: bytes


class AuditStream:
    """Stream and heads of one namespace. Errors of the client library come out as StoreUnavailableError."""

    def __init__(
        self, client: Any, script: Any, prefix: str, translated: Callable[[], AbstractAsyncContextManager[None]]
    ) -> None:
        self._redis = client
        self._script = script
        self._translated = translated
        self.stream, self.heads_key = f"{prefix}audit", f"{prefix}audit_heads"

    def __repr__(self) -> str:
        return f"<AuditStream {self.stream}>"

    async def add(self, chain: str, entries: Sequence[AuditEntry]) -> Head:
        """Add what follows on the chain's head; where the chain stands then (number 0: nothing of it is there)."""
        arguments: list[Any] = [chain]
        for entry in entries:
            arguments += [entry.number, entry.previous, entry.mac, encoded(entry)]
        async with self._translated():
            number, mac = await self._script(keys=[self.stream, self.heads_key], args=arguments)
        return Head(chain, int(number), mac.decode())

    async def heads(self) -> dict[str, int]:
        """The last number of every chain that was ever added."""
        async with self._translated():
            found: Mapping[bytes, bytes] = await self._redis.hgetall(self.heads_key)
        return {chain.decode("utf-8", "replace"): _number(head) for chain, head in found.items()}

    async def everything(self) -> list[Copy]:
        """The whole stream, oldest first."""
        found: list[Copy] = []
        start = "-"
        while True:
            async with self._translated():
                rows = await self._redis.xrange(self.stream, start, "+", READ_AT_ONCE)
            found += map(_copy, rows)
            if len(rows) < READ_AT_ONCE:
                return found
            start = f"({found[-1].stream_id}"

    async def newest(self, limit: int) -> list[Copy]:
        """The newest entries, newest first."""
        async with self._translated():
            return [_copy(row) for row in await self._redis.xrevrange(self.stream, "+", "-", limit)]


class AuditShipper:
    """Carries the chains of a data dir into the stream."""

    def __init__(self, file: AuditFile, stream: AuditStream) -> None:
        self._file = file
        self._stream = stream
        self._shipped: dict[
            str, tuple[int, Head]
        ] = {}  # the size of a file, and the head it had when all of it was there
        self._forked: set[str] = set()

    def __repr__(self) -> str:
        return f"<AuditShipper {self._file!r}>"

    async def ship(self) -> None:
        """Send what the stream lacks. Raises StoreUnavailableError, OSError."""
        for chain in self._file.chains():
            await self._ship(chain)

    async def _ship(self, chain: str) -> None:
        size = self._file.size(chain)
        there = await self._stream.add(chain, ())
        if self._shipped.get(chain) == (size, there):
            return
        entries = self._file.read(chain).entries
        while there.number < len(entries):
            went_on = await self._stream.add(chain, entries[there.number : there.number + BATCH_ENTRIES])
            if went_on == there:
                break
            there = went_on
        if there.number == len(entries) and (not entries or entries[-1].mac == there.mac):
            self._shipped[chain] = (size, there)
        elif chain not in self._forked:
            self._forked.add(chain)
            log.error("audit_forked", chain=chain, here=len(entries), stored=there.number, hint="verify --audit")


def _number(head: bytes) -> int:
    number = head.partition(b" ")[0]
    return int(number) if number.isdigit() and len(number) < 19 else 0


def _copy(row: tuple[bytes, Mapping[bytes, bytes]]) -> Copy:
    stream_id, fields = row
    chain, number = (fields.get(name, b"").decode("utf-8", "replace") for name in (b"chain", b"number"))
    return Copy(stream_id.decode(), chain, number, fields.get(b"entry", b""))
