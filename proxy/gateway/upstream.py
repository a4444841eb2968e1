"""The upstream's side of an exchange: send a request literally, give back the answer's head and its chunks as they come.

One of the places of the data path that know the HTTP library, of which it takes the pool of connections and the
parser. What a session of that library adds (default headers, cookies, redirects, proxies, a timer and a task for each
request) is what a relay must not do, so there is none. The library's exceptions become ours here: before the head
(`RelayError`, an answer the client gets) and inside the body (`UpstreamBrokeError`).
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final

import aiohttp
from aiohttp import ClientRequest
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import RawResponseMessage
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.tracing import Trace
from yarl import URL

from proxy.errors import RelayError, UpstreamBrokeError, UpstreamTimeoutError, UpstreamUnreachableError
from proxy.gateway.framing import LAST_CHUNK, LineBreakError, chunk, request_head
from proxy.gateway.headers import Credential, Passing, RawHeaders
from proxy.gateway.limits import ClientSide, Limits, Watch
from proxy.settings import UpstreamSettings
from proxy.tls import client_tls

STALE_WITHIN_S: Final = 1.0
"""A pooled connection that the upstream had closed fails within a round trip. One lost later may have done work."""

MAX_ATTEMPTS: Final = 3
HEADER_BYTES: Final = 64 * 1024
LARGE_BODY_BYTES: Final = 512 * 1024
PIECE_BYTES: Final = 128 * 1024
_SWITCHING_PROTOCOLS: Final = 101


class Answer:
    """The upstream's answer: its head, and its body chunk by chunk. To be closed when the exchange is over.

    `headers` are the lines that pass. `next_chunk` gives what has come since the last call, empty at the end, and `at_end`
    is true once everything was handed out and the end was seen. Both are the library's own methods: they are called for
    every chunk. `content_length` is None where the head does not tell it.
    """

    __slots__ = (
        "_connection",
        "_content",
        "_sending",
        "_watch",
        "at_end",
        "content_encoding",
        "content_length",
        "headers",
        "next_chunk",
        "reason",
        "status",
    )

    def __init__(
        self,
        message: RawResponseMessage,
        content: StreamReader,
        *,
        headers: bytes,
        connection: Connection,
        watch: Watch,
        sending: "asyncio.Task[None] | None",
    ) -> None:
        self._connection = connection
        self._content = content
        self._watch = watch
        self._sending = sending
        self.status = message.code
        self.reason = message.reason
        self.headers = headers
        length = message.headers.get("Content-Length")
        self.content_length = int(length) if length is not None and length.isdecimal() else None
        self.content_encoding = message.headers.get("Content-Encoding", "")
        self.next_chunk: Callable[[], Awaitable[bytes]] = content.readany
        self.at_end: Callable[[], bool] = content.at_eof
        watch.begin(content, self._is_lost)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.reason}>"

    @property
    def body_has_begun(self) -> bool:
        """True if the first of the body came together with the head."""
        return self._content.total_bytes > 0

    def _is_lost(self) -> bool:
        """True where the connection is closed and the body has not come to its end."""
        protocol = self._connection.protocol
        gone = protocol is None or protocol.transport is None or protocol.transport.is_closing()
        return gone and not self._content.is_eof()

    async def read(self) -> bytes:
        """As `next_chunk`, for whoever does not know the library. Raises UpstreamBrokeError."""
        try:
            return await self.next_chunk()
        except (aiohttp.ClientError, HttpProcessingError, RuntimeError) as error:
            raise as_break(error) from error  # RuntimeError: the library's word for a body that cannot go on

    def close(self) -> None:
        """Give the connection back, or close it where the body has not come to its end: the upstream shall stop."""
        self._watch.end()
        sent = self._sending is None or self._sending.done()
        if sent and self.at_end():
            self._connection.release()
        else:
            self._connection.close()
        if self._sending is not None:
            self._sending.cancel()


def as_break(error: Exception) -> UpstreamBrokeError:
    """What an exception of the library's means that came up while a body was read."""
    return UpstreamBrokeError(f"the upstream broke the body off: {type(error).__name__}")


class _Connector(aiohttp.TCPConnector):
    """A pool that tells when it made a new connection instead of handing out one that had been used before."""

    def __init__(self, made_anew: ContextVar[bool], *, tls: ssl.SSLContext, keepalive_timeout: float) -> None:
        super().__init__(limit=0, ssl=tls, keepalive_timeout=keepalive_timeout)
        self._made_anew = made_anew

    async def _create_connection(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the library's signature
    ) -> ResponseHandler:
        self._made_anew.set(True)
        return await super()._create_connection(req, traces, timeout)


class Upstream:
    """A pool of connections to one host."""

    def __init__(self, settings: UpstreamSettings, credential: Credential) -> None:
        """Needs a running event loop. Raises SettingsError for a CA file that cannot be used."""
        self._loop = asyncio.get_running_loop()
        self._passing = Passing(credentials=credential.is_the_clients)
        self._credential = credential.line
        self._limits = Limits(settings.idle_timeout_seconds, settings.total_timeout_seconds, self._loop)
        self._timeout = aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_seconds)
        base = URL(settings.url, encoded=True)
        self._prefix = base.raw_path.rstrip("/")
        self._host = f"Host: {base.host_port_subcomponent}\r\n".encode()
        self._address = ClientRequest(
            "GET", base, loop=self._loop
        )  # where to connect to, as the pool wants to be asked
        self._made_anew: ContextVar[bool] = ContextVar("made_anew", default=False)
        tls = client_tls(settings.ca_file)
        self._pooled = _Connector(self._made_anew, tls=tls, keepalive_timeout=settings.keepalive_seconds)
        self._fresh = aiohttp.TCPConnector(limit=0, ssl=tls, force_close=True)

    def __repr__(self) -> str:
        return f"<Upstream {self._host.decode().strip()} {self._limits!r}>"

    async def close(self) -> None:
        """Close all connections."""
        self._limits.close()
        await self._pooled.close()
        await self._fresh.close()

    async def send(
        self, method: str, target: str, raw: RawHeaders, body: bytes, *, chunked: bool, client: ClientSide
    ) -> Answer:
        """Send a request and give its answer, which has to be closed. Raises RelayError if there is none, LineBreakError."""
        headers = self._passing.of_request(raw) + self._credential
        watch = self._limits.watch(client)
        try:
            return await self._attempts(method, target, headers, body, chunked=chunked, watch=watch)
        except asyncio.CancelledError as error:
            watch.end()
            if watch.head_is_late and _taken_back():
                raise _before_head(TimeoutError()) from error
            raise
        except BaseException:  # whatever ended it, nobody watches it any more; raised again
            watch.end()
            raise

    async def _attempts(
        self, method: str, target: str, headers: bytes, body: bytes, *, chunked: bool, watch: Watch
    ) -> Answer:
        """Over the pool while it hands out stale connections, the last time over a connection of its own."""
        for attempt in range(1, MAX_ATTEMPTS + 1):
            fresh = attempt == MAX_ATTEMPTS
            head = request_head(method, self._prefix + target, self._host, headers, chunked=chunked, close=fresh)
            payload = _framed(body) if chunked else body
            begun_s = self._loop.time()
            self._made_anew.set(False)
            try:
                return await self._once(self._fresh if fresh else self._pooled, method, head, payload, watch)
            except (aiohttp.ClientError, HttpProcessingError, LineBreakError, OSError, TimeoutError) as error:
                after_s = self._loop.time() - begun_s
                if not may_retry(error, reused=not self._made_anew.get(), after_s=after_s, attempt=attempt):
                    raise _before_head(error) from error
        raise AssertionError("the last attempt returns or raises")

    async def _once(
        self, connector: aiohttp.TCPConnector, method: str, head: bytes, payload: bytes, watch: Watch
    ) -> Answer:
        connection = await self._connect(connector)
        sending = None
        try:
            protocol = connection.protocol
            assert protocol is not None  # noqa: S101 - it was just handed out
            protocol.set_response_params(
                skip_payload=method == "HEAD",
                read_until_eof=True,
                auto_decompress=False,
                max_line_size=HEADER_BYTES,
                max_field_size=HEADER_BYTES,
            )
            sending = self._write(protocol, head, payload)
            message, content = await protocol.read()
            while 100 <= message.code < 200 and message.code != _SWITCHING_PROTOCOLS:
                message, content = await protocol.read()
            headers = self._passing.of_response(message.raw_headers)
        except BaseException:  # a connection without its answer is of no use to anybody else; raised again
            connection.close()
            if sending is not None:
                sending.cancel()
            raise
        return Answer(message, content, headers=headers, connection=connection, watch=watch, sending=sending)

    async def _connect(self, connector: aiohttp.TCPConnector) -> Connection:
        try:
            return await connector.connect(self._address, traces=[], timeout=self._timeout)
        except TimeoutError as error:
            raise aiohttp.ConnectionTimeoutError from error

    def _write(self, protocol: ResponseHandler, head: bytes, payload: bytes) -> "asyncio.Task[None] | None":
        """Send the request: at once, or a large one piece by piece, while an answer to its head may already come."""
        transport = protocol.transport
        if transport is None or transport.is_closing():
            raise aiohttp.ClientConnectionResetError("the pooled connection is closed")
        if len(payload) <= LARGE_BODY_BYTES:
            transport.write(head + payload)
            return None
        transport.write(head)
        sending = self._loop.create_task(_send_in_pieces(protocol, payload, self._loop))
        sending.add_done_callback(_look_at_its_error)
        return sending


async def _send_in_pieces(protocol: ResponseHandler, payload: bytes, loop: asyncio.AbstractEventLoop) -> None:
    writer = StreamWriter(protocol, loop)
    whole = memoryview(payload)
    for start in range(0, len(payload), PIECE_BYTES):
        await writer.write(whole[start : start + PIECE_BYTES])


def _look_at_its_error(sending: "asyncio.Task[None]") -> None:
    """A connection lost while sending is seen where the answer is waited for."""
    if not sending.cancelled():
        sending.exception()


def _framed(body: bytes) -> bytes:
    """A body without a length, as it goes on: one chunk and the last one."""
    return chunk(body) + LAST_CHUNK if body else LAST_CHUNK


def _taken_back() -> bool:
    """Take back the cancellation that `Watch` asked for; False where somebody else asked for one, too."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() == 0


def may_retry(error: Exception, *, reused: bool, after_s: float, attempt: int) -> bool:
    """True where a pooled connection turned out to be closed already: the upstream never read the request."""
    lost = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionResetError)
    return lost and reused and after_s < STALE_WITHIN_S and attempt < MAX_ATTEMPTS


def _before_head(error: Exception) -> RelayError:
    """What the client is told when no answer came. Hosts and addresses stay out of it."""
    if isinstance(error, TimeoutError):
        return UpstreamTimeoutError("The upstream did not answer in time.")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return UpstreamUnreachableError(
            "The upstream's certificate is not one this proxy trusts; see [upstream] ca_file."
        )
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return UpstreamUnreachableError("The TLS handshake with the upstream failed.")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamUnreachableError("The upstream cannot be reached.")
    if isinstance(error, HttpProcessingError | LineBreakError):
        return not_http()
    return UpstreamUnreachableError("The upstream closed the connection without an answer.")


def not_http() -> RelayError:
    """What the client is told of an answer that cannot be read, or that cannot be passed on as one."""
    return UpstreamUnreachableError("The upstream's answer is not HTTP.")


def was_sent(error: RelayError) -> bool:
    """False where the request certainly never reached the upstream, so that it cannot have cost anything."""
    cause = error.__cause__
    return not isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
