"""The upstream's side of an exchange: send a request literally, give back the answer's head and its chunks as they come.

One of the two places of the data path that know the HTTP library. Its exceptions become ours here, in one table each:
before the head (`RelayError`, an answer the client gets) and inside the body (`UpstreamBrokeError`).

The library's own timers are not used: they are set anew for every chunk. One timer per exchange looks now and then
whether the upstream has been silent for too long; it sleeps for the rest of the limit, whatever comes in between.
"""

import asyncio
import io
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final
from weakref import WeakSet

import aiohttp
from aiohttp import ClientRequest, ClientResponse
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.tracing import Trace
from multidict import CIMultiDict
from yarl import URL

from proxy.errors import (
    RelayError,
    UpstreamBrokeError,
    UpstreamStalledError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from proxy.gateway.headers import Pair, Passing
from proxy.settings import UpstreamSettings

STALE_WITHIN_S: Final = 1.0
"""A pooled connection that the upstream had closed fails within a round trip. One lost later may have done work."""

MAX_ATTEMPTS: Final = 3
HEADER_BYTES: Final = 64 * 1024
LARGE_BODY_BYTES: Final = 512 * 1024
_NOT_ADDED: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Answer:
    """The upstream's answer: its head, and its body chunk by chunk. To be closed when the exchange is over."""

    __slots__ = ("_content", "_response", "_watch", "content_length", "headers", "reason", "status")

    def __init__(self, response: ClientResponse, headers: list[Pair], watch: "_Watch") -> None:
        self._response = response
        self._content = response.content
        self._watch = watch
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = headers
        self.content_length = response.content_length
        watch.begin(self._content)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.reason}>"

    @property
    def at_end(self) -> bool:
        """True once the whole body was handed out and its end was seen."""
        return self._content.at_eof()

    async def next_chunk(self) -> bytes:
        """What has come since the last call; empty at the end. To be called inside `translating`."""
        self._watch.waiting = True
        chunk = await self._content.readany()
        self._watch.waiting = False
        return chunk

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Turn the library's exceptions while a body is read into UpstreamBrokeError, with or without a stall."""
        try:
            yield
        except aiohttp.ClientConnectionResetError:
            raise  # the client's side: nobody is there to write to
        except aiohttp.ClientError as error:
            raise UpstreamBrokeError(f"the upstream broke the body off: {type(error).__name__}") from error

    def close(self) -> None:
        """Give the connection back, or close it where the body has not come to its end: the upstream shall stop."""
        self._watch.end()
        if self._content.at_eof():
            self._response.release()
        else:
            self._response.close()


class _Watch:
    """The limits of one exchange: how long its upstream may be silent, and how long all of it may take.

    Time spent writing to a slow client is not the upstream's silence: only `waiting` counts. At the total limit an
    exchange that is stuck in writing is given up as well.
    """

    __slots__ = ("_content", "_deadline_s", "_give_up", "_handle", "_idle_s", "_looks", "_loop", "waiting")

    def __init__(self, idle_s: float, total_s: float, give_up: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._idle_s = idle_s
        self._deadline_s = self._loop.time() + total_s
        self._give_up = give_up
        self._content: aiohttp.StreamReader | None = None
        self._handle: asyncio.TimerHandle | None = None
        self._looks = (-1, 0.0)  # bytes received, and when that was first seen
        self.waiting = False

    def head_limit_s(self) -> float:
        """How long the answer's head may take."""
        return min(self._idle_s, self._deadline_s - self._loop.time())

    def begin(self, content: aiohttp.StreamReader) -> None:
        self._content = content
        self._looks = (content.total_bytes, self._loop.time())
        self._sleep(self._idle_s)

    def end(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def _sleep(self, seconds: float) -> None:
        self._handle = self._loop.call_later(min(seconds, self._deadline_s - self._loop.time()), self._look)

    def _look(self) -> None:
        """Silence is measured from the first look that found nothing new: at most one limit late, never early."""
        assert self._content is not None  # noqa: S101 - set by `begin`, which starts the timer
        now = self._loop.time()
        received, seen_s = self._looks
        if now >= self._deadline_s:
            self._expire("the exchange took too long")
        elif not self.waiting or self._content.total_bytes != received:
            self._looks = (self._content.total_bytes, now)
            self._sleep(self._idle_s)
        elif now - seen_s >= self._idle_s:
            self._expire("the upstream fell silent")
        else:
            self._sleep(seen_s + self._idle_s - now)

    def _expire(self, reason: str) -> None:
        assert self._content is not None  # noqa: S101
        self._content.set_exception(UpstreamStalledError(reason))
        if not self.waiting:
            self._give_up()


class _Connector(aiohttp.TCPConnector):
    """A pool that tells whether it handed out a connection that had been used before."""

    def __init__(self, reused: ContextVar[bool], *, ssl: ssl.SSLContext, keepalive_timeout: float) -> None:
        super().__init__(limit=0, ssl=ssl, keepalive_timeout=keepalive_timeout)
        self._reused_here = reused
        self._used: WeakSet[ResponseHandler] = WeakSet()

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the library's signature
    ) -> Connection:
        connection = await super().connect(req, traces, timeout)
        protocol = connection.protocol
        assert protocol is not None  # noqa: S101 - a connection that was just handed out has one
        self._reused_here.set(protocol in self._used)
        self._used.add(protocol)
        return connection


class Upstream:
    """A pool of connections to one host."""

    def __init__(self, settings: UpstreamSettings, passing: Passing) -> None:
        """Needs a running event loop. Raises OSError/ssl.SSLError for a CA file that cannot be read."""
        self._base = settings.url.rstrip("/")
        self._settings = settings
        self._passing = passing
        self._reused: ContextVar[bool] = ContextVar("reused", default=False)
        tls = ssl.create_default_context(cafile=settings.ca_file or None)
        pooled = _Connector(self._reused, ssl=tls, keepalive_timeout=settings.keepalive_seconds)
        self._pooled = _session(settings, pooled)
        self._fresh = _session(settings, aiohttp.TCPConnector(limit=0, ssl=tls, force_close=True))

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._fresh.close()

    async def send(
        self,
        method: str,
        target: str,
        headers: list[Pair],
        body: bytes,
        *,
        chunked: bool,
        give_up: Callable[[], None],
    ) -> Answer:
        """Send a request and give its answer, which has to be closed. Raises RelayError if there is none.

        `give_up` is called where the exchange is past its total limit and hangs on a client that does not read.
        """
        watch = _Watch(self._settings.idle_timeout_seconds, self._settings.total_timeout_seconds, give_up)
        url = URL(self._base + target, encoded=True)
        given = CIMultiDict(headers)
        for number in range(1, MAX_ATTEMPTS + 1):
            session = self._fresh if number == MAX_ATTEMPTS else self._pooled
            begun_s = asyncio.get_running_loop().time()
            self._reused.set(False)
            try:
                async with asyncio.timeout(watch.head_limit_s()):
                    response = await session.request(
                        method,
                        url,
                        headers=given,
                        data=_payload(body, chunked=chunked),
                        chunked=True if chunked else None,
                        allow_redirects=False,
                    )
                return Answer(response, self._passing.of_response(response.raw_headers), watch)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                failed_after_s = asyncio.get_running_loop().time() - begun_s
                if not may_retry(error, reused=self._reused.get(), after_s=failed_after_s, attempt=number):
                    raise _before_head(error) from error
        raise AssertionError("the last attempt returns or raises")


def _payload(body: bytes, *, chunked: bool) -> bytes | io.BytesIO | None:
    """The body as the library wants it: none for an empty one, a large one as a file, so that it is sent in pieces."""
    if not body and not chunked:
        return None
    return io.BytesIO(body) if len(body) > LARGE_BODY_BYTES else body


def may_retry(error: Exception, *, reused: bool, after_s: float, attempt: int) -> bool:
    """True where a pooled connection turned out to be closed already: the upstream never read the request."""
    lost = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | ConnectionResetError)
    return lost and reused and after_s < STALE_WITHIN_S and attempt < MAX_ATTEMPTS


def _before_head(error: Exception) -> RelayError:
    """What the client is told when no answer came. Hosts and addresses stay out of it."""
    if isinstance(error, TimeoutError):
        return UpstreamTimeoutError("The upstream did not answer in time.")
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return UpstreamUnreachableError("The TLS handshake with the upstream failed.")
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamUnreachableError("The upstream cannot be reached.")
    return UpstreamUnreachableError("The upstream closed the connection without an answer.")


def was_sent(error: RelayError) -> bool:
    """False where the request certainly never reached the upstream, so that it cannot have cost anything."""
    cause = error.__cause__
    return not isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)


def _session(settings: UpstreamSettings, connector: aiohttp.TCPConnector) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_NOT_ADDED,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
        timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout_seconds),
    )
