"""The upstream: answers chat completions with bytes made beforehand, as cheaply as Python can.

Run as `python -m benchmarks.stub`; prints its port. A stream's events go out one by one, `CHUNK_EVERY_S` apart.
"""

import asyncio
import re
import time
from typing import Final

import uvloop

from benchmarks.wire import CHUNK_EVERY_S, COMPLETION, FIRST_EVENT, LAST_EVENTS, NEXT_EVENT

_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_TOKENS: Final = re.compile(rb'"max_tokens": *(\d+)')
_STREAM: Final = re.compile(rb'"stream": *true')


def split_request(held: bytes) -> tuple[bytes, bytes] | None:
    """The body of the first whole request in `held` and what stands behind it; None until it is whole."""
    head, blank, rest = held.partition(b"\r\n\r\n")
    if not blank:
        return None
    found = _LENGTH.search(head + b"\r\n")
    length = int(found[1]) if found else 0
    return (rest[:length], rest[length:]) if len(rest) >= length else None


def tokens_asked(body: bytes) -> int:
    """How many tokens a stream shall have; 0 for an answer in one piece."""
    found = _TOKENS.search(body)
    return int(found[1]) if found and _STREAM.search(body) else 0


class StubProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._held = b""
        self._left = 0

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while split := split_request(self._held):
            body, self._held = split
            self._answer(tokens_asked(body))

    def _answer(self, tokens: int) -> None:
        if not tokens:
            self._transport.write(COMPLETION)
            return
        self._left = tokens - 1
        self._transport.write(FIRST_EVENT % time.monotonic_ns())
        self._loop.call_later(CHUNK_EVERY_S, self._go_on)

    def _go_on(self) -> None:
        if self._transport.is_closing():
            return
        if not self._left:
            self._transport.write(LAST_EVENTS)
            return
        self._left -= 1
        self._transport.write(NEXT_EVENT % time.monotonic_ns())
        self._loop.call_later(CHUNK_EVERY_S, self._go_on)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: StubProtocol(loop), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
