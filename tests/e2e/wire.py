"""The wire as it is: an upstream that plays a script, and a client that keeps every byte. Both live in the test's loop."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Script = Callable[["Heard", asyncio.StreamWriter], Awaitable[None]]

PATIENCE_S = 20.0


@dataclass
class Heard:
    """One request as the upstream received it."""

    head: bytes
    body: bytes
    reader: asyncio.StreamReader

    @property
    def sender_is_gone(self) -> bool:
        return self.reader.at_eof() or self.reader.exception() is not None

    @property
    def request_line(self) -> bytes:
        return self.head.split(b"\r\n", 1)[0]

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        lines = self.head.split(b"\r\n")[1:]
        return [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines if line)]

    def values(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.headers if found.lower() == name.lower()]


@dataclass
class Upstream:
    """What the upstream heard, over how many connections."""

    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0


@contextlib.asynccontextmanager
async def upstream(script: Script, address: str) -> AsyncIterator[Upstream]:
    """Serve `script` for every request, keeping connections open as HTTP/1.1 does."""
    state = Upstream(f"http://{address}")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        state.connections += 1
        try:
            while (heard := await _request(reader)) is not None:
                state.heard.append(heard)
                await script(heard, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except asyncio.CancelledError:
            return
        finally:
            writer.transport.abort()

    host, port = address.split(":")
    server = await asyncio.start_server(serve, host, int(port), limit=2**20)
    try:
        yield state
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # aborted transports are closed by the loop's next round


async def _request(reader: asyncio.StreamReader) -> Heard | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    heard = Heard(head[:-4], b"", reader)
    if heard.values(b"transfer-encoding") == [b"chunked"]:
        heard.body = await _chunked(reader)
    elif length := heard.values(b"content-length"):
        heard.body = await reader.readexactly(int(length[0]))
    return heard


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


@dataclass
class Seen:
    """A response as the client received it. `ended` is False where the body broke off."""

    status_line: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False

    @property
    def status(self) -> int:
        return int(self.status_line.split()[1])

    def values(self, name: bytes) -> list[bytes]:
        return [value for found, value in self.headers if found.lower() == name.lower()]


class Client:
    """A raw connection; `on_bytes` is called with the length of the body so far, as it arrives."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.seen = Seen()

    async def open(self) -> "Client":
        host, port = self._address.split(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port), limit=2**20)
        return self

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()

    def close_sending(self) -> None:
        self._writer.write_eof()

    async def abort(self) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0.01)

    async def send(self, request: bytes) -> None:
        self._writer.write(request)
        await self._writer.drain()

    async def head(self) -> Seen:
        self.seen = Seen()
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        first, *lines = head[:-4].split(b"\r\n")
        self.seen.status_line = first
        self.seen.headers = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        return self.seen

    async def body(self, on_bytes: Callable[[int], None] = lambda _: None) -> Seen:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            if self.seen.values(b"transfer-encoding") == [b"chunked"]:
                await self._read_chunks(on_bytes)
            else:
                await self._read_length(on_bytes)
        return self.seen

    async def _read_chunks(self, on_bytes: Callable[[int], None]) -> None:
        while size := int(await asyncio.wait_for(self._reader.readuntil(b"\r\n"), PATIENCE_S), 16):
            while size:
                piece = await asyncio.wait_for(self._reader.read(size), PATIENCE_S)
                if not piece:
                    return
                self.seen.body += piece
                size -= len(piece)
                on_bytes(len(self.seen.body))
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        self.seen.ended = True

    async def _read_length(self, on_bytes: Callable[[int], None]) -> None:
        wanted = int((self.seen.values(b"content-length") or [b"-1"])[0])
        while wanted < 0 or len(self.seen.body) < wanted:
            most = 65536 if wanted < 0 else wanted - len(self.seen.body)  # what is behind is the next response
            piece = await asyncio.wait_for(self._reader.read(most), PATIENCE_S)
            if not piece:
                self.seen.ended = wanted < 0
                return
            self.seen.body += piece
            on_bytes(len(self.seen.body))
        self.seen.ended = True


async def ask(
    address: str, request: bytes, on_bytes: Callable[[int], None] = lambda _: None, *, bodyless: bool = False
) -> Seen:
    """One request on a connection of its own; `bodyless` for HEAD."""
    client = await Client(address).open()
    try:
        await client.send(request)
        head = await client.head()
        return head if bodyless else await client.body(on_bytes)
    finally:
        await client.close()


def post(path: str, body: bytes, *headers: bytes) -> bytes:
    """A POST as an SDK would send it."""
    lines = [b"POST " + path.encode() + b" HTTP/1.1", b"Host: proxy.example", b"Authorization: Bearer sk-not-a-key"]
    lines += [b"Content-Type: application/json", b"Content-Length: " + str(len(body)).encode(), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole response with a content-length."""
    lines = [b"HTTP/1.1 " + status, b"Content-Type: application/json", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
