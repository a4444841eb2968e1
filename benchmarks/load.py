"""The clients: raw protocols that cost little, so that the core they share with the upstream is not what is measured.

`run_requests` keeps every connection busy until a deadline. `run_streams` has every connection read so many streams, begun
one after the other so that they do not march in step.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from benchmarks.wire import CHUNK_EVERY_S, END_OF_BODY, STAMP_DIGITS, STAMP_MARK, request, request_body

STATUS: Final = b"HTTP/1.1 200 "


class Seen:
    """What the clients of one run saw. Delays are in nanoseconds."""

    def __init__(self) -> None:
        self.answers = 0
        self.reads = 0
        self.delays_ns: list[int] = []
        self.first_chunk_ns: list[int] = []
        self.seconds = 0.0


class Client(asyncio.Protocol):
    """One connection that asks again as long as `goes_on` says so."""

    def __init__(self, request: bytes, seen: Seen, goes_on: Callable[[int], bool]) -> None:
        self._request, self._seen, self._goes_on = request, seen, goes_on
        self._tail = b""
        self._answers = 0
        self._sent_ns = 0
        self._status_seen = False
        self._chunk_seen = False
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def ask(self) -> None:
        self._tail = b""
        self._status_seen = self._chunk_seen = False
        self._sent_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self._status_seen and not data.startswith(STATUS):
            self._fail(f"not the answer expected: {data[:200]!r}")
            return
        self._status_seen = True
        self._look(data)
        self._tail = (self._tail + data)[-len(END_OF_BODY) :] if len(data) < len(END_OF_BODY) else data
        if self._tail.endswith(END_OF_BODY):
            self._answered()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail("the connection was closed")

    def _look(self, data: bytes) -> None:
        self._seen.reads += 1

    def _answered(self) -> None:
        self._answers += 1
        self._seen.answers += 1
        if self._goes_on(self._answers):
            self.ask()
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()

    def _fail(self, reason: str) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(reason))


class StreamClient(Client):
    """A connection that reads streams and notes how long each chunk was under way."""

    def _look(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._seen.reads += 1
        at = data.find(STAMP_MARK)
        if at >= 0 and not self._chunk_seen:
            self._seen.first_chunk_ns.append(now - self._sent_ns)
            self._chunk_seen = True
        while at >= 0:
            start = at + len(STAMP_MARK)
            self._seen.delays_ns.append(now - int(data[start : start + STAMP_DIGITS]))
            at = data.find(STAMP_MARK, start)


async def run_requests(address: str, connections: int, seconds: float) -> Seen:
    """Closed loop: every connection asks, waits for the whole answer and asks again."""
    deadline = time.monotonic() + seconds
    seen = Seen()
    ask = request(address, request_body(tokens=0))
    clients = await _connect(address, connections, lambda: Client(ask, seen, lambda _: time.monotonic() < deadline))
    await _finish(clients, seen, apart_s=0.0)
    return seen


async def run_streams(address: str, streams: int, tokens: int, turns: int) -> Seen:
    """Every connection reads `turns` streams one after the other."""
    seen = Seen()
    ask = request(address, request_body(tokens=tokens))
    clients = await _connect(address, streams, lambda: StreamClient(ask, seen, lambda read: read < turns))
    await _finish(clients, seen, apart_s=tokens * CHUNK_EVERY_S / streams)
    return seen


async def _connect(address: str, count: int, make: Callable[[], Client]) -> list[Client]:
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    return [(await loop.create_connection(make, host, int(port)))[1] for _ in range(count)]


async def _finish(clients: list[Client], seen: Seen, *, apart_s: float) -> None:
    begun_s = time.monotonic()
    for client in clients:
        client.ask()
        if apart_s:
            await asyncio.sleep(apart_s)
    await asyncio.gather(*(client.done for client in clients))
    seen.seconds = time.monotonic() - begun_s
