"""The upstream's side of an exchange: send a request literally, give back the answer's head and its chunks as they come.

One of the two places of the data path that know the HTTP library. Its exceptions become ours here, in one table each:
before the head (`RelayError`, an answer the client gets) and inside the body (`UpstreamBrokeError`).

The library's own timers are not used: they are set anew for every chunk. One timer per exchange looks now and then
whether the upstream has been silent for too long; it sleeps for the rest of the limit, whatever comes in between.
"""

import asyncio
import io
import ssl
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, NamedTuple

import aiohttp
from aiohttp import ClientRequest, ClientResponse
from aiohttp.client_proto import ResponseHandler
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
    """The upstream's answer: its head, and its body chunk by chunk. To be closed when the exchange is over.

    `next_chunk` gives what has come since the last call, empty at the end, and `at_end` is true once everything was
    handed out and the end was seen. Both are the library's own methods: they are called for every chunk.
    """

    __slots__ = (
        "_response",
        "_watch",
        "at_end",
        "content_encoding",
        "content_length",
        "headers",
        "next_chunk",
        "reason",
        "status",
    )

    def __init__(self, response: ClientResponse, headers: list[Pair], watch: "_Watch") -> None:
        self._response = response
        self._watch = watch
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = headers
        self.content_length = response.content_length
        self.content_encoding = response.headers.get("Content-Encoding", "")
        self.next_chunk: Callable[[], Awaitable[bytes]] = response.content.readany
        self.at_end: Callable[[], bool] = response.content.at_eof
        watch.begin(response.content)

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.reason}>"

    @property
    def body_has_begun(self) -> bool:
        """True if the first of the body came together with the head."""
        return self._response.content.total_bytes > 0

    def close(self) -> None:
        """Give the connection back, or close it where the body has not come to its end: the upstream shall stop."""
        self._watch.end()
        if self.at_end():
            self._response.release()
        else:
            self._response.close()


def as_break(error: aiohttp.ClientError) -> UpstreamBrokeError:
    """What an exception of the library's means that came up while a body was read."""
    return UpstreamBrokeError(f"the upstream broke the body off: {type(error).__name__}")


class ClientSide(NamedTuple):
    """What the limits of an exchange need to know of, and do to, the client's side."""

    is_behind: Callable[[], bool]
    give_up: Callable[[], None]


class _Watch:
    """The limits of one exchange: how long its upstream may be silent, and how long all of it may take.

    One timer that sleeps for the rest of the limit. Before the head it cancels the waiting task (`head_is_late` tells
    why); inside the body it ends the reading. While the client is behind with its own reading, the upstream is held
    back and its silence is not its own; at the total limit an exchange that hangs on such a client is given up as well.
    """

    __slots__ = (
        "_client", "_content", "_deadline_s", "_handle", "_idle_s", "_loop", "_received", "_seen_s", "_task", "head_is_late"
    )  # fmt: skip

    def __init__(self, idle_s: float, total_s: float, client: ClientSide) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._idle_s = idle_s
        self._client = client
        self._content: aiohttp.StreamReader | None = None
        self._received = -1  # bytes, at the last look that found something new,
        self._seen_s = self._loop.time()  # and when that was
        self._deadline_s = self._seen_s + total_s
        self.head_is_late = False
        self._handle = self._loop.call_at(min(self._seen_s + idle_s, self._deadline_s), self._look)

    def begin(self, content: aiohttp.StreamReader) -> None:
        """The head is there; from here on it is the body that is waited for."""
        self._content = content

    def end(self) -> None:
        self._handle.cancel()

    def _look(self) -> None:
        """Silence is measured from the last look that found something new: at most one limit late, never early."""
        if self._content is None:
            self.head_is_late = True
            if self._task is not None:
                self._task.cancel()
            return
        now, received = self._loop.time(), self._content.total_bytes
        if received != self._received or self._client.is_behind():
            self._received, self._seen_s = received, now
        if now >= self._deadline_s:
            self._expire(self._content, "the exchange took too long")
        elif now - self._seen_s >= self._idle_s:
            self._expire(self._content, "the upstream fell silent")
        else:
            self._handle = self._loop.call_at(min(self._seen_s + self._idle_s, self._deadline_s), self._look)

    def _expire(self, content: aiohttp.StreamReader, reason: str) -> None:
        content.set_exception(UpstreamStalledError(reason))
        if self._client.is_behind():
            self._client.give_up()


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

    def __init__(self, settings: UpstreamSettings, passing: Passing) -> None:
        """Needs a running event loop. Raises OSError/ssl.SSLError for a CA file that cannot be read."""
        self._base = settings.url.rstrip("/")
        self._settings = settings
        self._passing = passing
        self._made_anew: ContextVar[bool] = ContextVar("made_anew", default=False)
        tls = ssl.create_default_context(cafile=settings.ca_file or None)
        pooled = _Connector(self._made_anew, tls=tls, keepalive_timeout=settings.keepalive_seconds)
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
        client: ClientSide,
    ) -> Answer:
        """Send a request and give its answer, which has to be closed. Raises RelayError if there is none."""
        watch = _Watch(self._settings.idle_timeout_seconds, self._settings.total_timeout_seconds, client)
        url = URL(self._base + target, encoded=True)
        given = CIMultiDict(headers)
        try:
            for number in range(1, MAX_ATTEMPTS + 1):
                begun_s = asyncio.get_running_loop().time()
                self._made_anew.set(False)
                try:
                    response = await self._request(number, method, url, given, body, chunked=chunked)
                except (aiohttp.ClientError, OSError, TimeoutError) as error:
                    after_s = asyncio.get_running_loop().time() - begun_s
                    if not may_retry(error, reused=not self._made_anew.get(), after_s=after_s, attempt=number):
                        raise _before_head(error) from error
                else:
                    return Answer(response, self._passing.of_response(response.raw_headers), watch)
        except asyncio.CancelledError as error:
            watch.end()
            if watch.head_is_late and _taken_back():
                raise _before_head(TimeoutError()) from error
            raise
        except BaseException:
            watch.end()
            raise
        raise AssertionError("the last attempt returns or raises")

    def _request(
        self, number: int, method: str, url: URL, headers: CIMultiDict[str], body: bytes, *, chunked: bool
    ) -> Awaitable[ClientResponse]:
        """Attempt `number`: over the pool, the last one over a connection of its own."""
        session = self._fresh if number == MAX_ATTEMPTS else self._pooled
        return session.request(
            method,
            url,
            headers=headers,
            data=_payload(body, chunked=chunked),
            chunked=True if chunked else None,
            allow_redirects=False,
        )


def _taken_back() -> bool:
    """Take back the cancellation that `_Watch` asked for; False where somebody else asked for one, too."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() == 0


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
