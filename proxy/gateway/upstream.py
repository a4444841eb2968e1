"""The upstream's side of an exchange: send a request literally, give back the answer's head and its chunks as they come.

One of the two places of the data path that know the HTTP library. Its exceptions become ours here, in one table each:
before the head (`RelayError`, an answer the client gets) and inside the body (`UpstreamBrokeError`).
"""

import io
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from aiohttp import ClientResponse, TraceConfig
from yarl import URL

from proxy.errors import (
    RelayError,
    UpstreamBrokeError,
    UpstreamStalledError,
    UpstreamTimeoutError,
    UpstreamUnreachableError,
)
from proxy.gateway.headers import Pair, response_headers, text_pairs
from proxy.settings import UpstreamSettings

STALE_WITHIN_S: Final = 1.0
"""A pooled connection that the upstream had closed fails within a round trip. One lost later may have done work."""

MAX_ATTEMPTS: Final = 3
HEADER_BYTES: Final = 64 * 1024
LARGE_BODY_BYTES: Final = 512 * 1024
_NOT_ADDED: Final = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")


class Answer:
    """The upstream's answer: its head, and its body chunk by chunk."""

    __slots__ = ("_response", "content_length", "headers", "reason", "status")

    def __init__(self, response: ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.reason = response.reason or ""
        self.headers: list[Pair] = response_headers(text_pairs(response.raw_headers))
        self.content_length = response.content_length

    def __repr__(self) -> str:
        return f"<Answer {self.status} {self.reason}>"

    @property
    def at_end(self) -> bool:
        """True once the whole body was handed out and its end was seen."""
        return self._response.content.at_eof()

    async def next_chunk(self) -> bytes:
        """What has come since the last call; empty at the end. Raises UpstreamBrokeError where the body breaks off."""
        try:
            return await self._response.content.readany()
        except TimeoutError as error:
            raise UpstreamStalledError("the upstream fell silent or took too long") from error
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamBrokeError(f"the upstream broke the body off: {type(error).__name__}") from error

    def close(self) -> None:
        """Close the connection: the upstream shall stop working for a client that is gone."""
        self._response.close()


class _Attempt:
    """Filled by the tracer: whether this attempt went over a pooled connection."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False


class Upstream:
    """A pool of connections to one host."""

    def __init__(self, settings: UpstreamSettings, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        """Needs a running event loop. Raises OSError/ssl.SSLError for a CA file that cannot be read."""
        self._base = settings.url.rstrip("/")
        self._monotonic_s = monotonic_s
        tls = ssl.create_default_context(cafile=settings.ca_file or None)
        self._pooled = _session(settings, tls, force_close=False)
        self._fresh = _session(settings, tls, force_close=True)

    async def close(self) -> None:
        """Close all connections."""
        await self._pooled.close()
        await self._fresh.close()

    @asynccontextmanager
    async def send(
        self, method: str, target: str, headers: list[Pair], body: bytes, *, chunked: bool
    ) -> AsyncIterator[Answer]:
        """Send a request and give its answer. Raises RelayError if there is none."""
        response = await self._answer(method, target, headers, body, chunked=chunked)
        try:
            yield Answer(response)
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()

    async def _answer(
        self, method: str, target: str, headers: list[Pair], body: bytes, *, chunked: bool
    ) -> ClientResponse:
        """Retry while the pool hands out connections the upstream has closed meanwhile; the last try uses a fresh one."""
        url = URL(self._base + target, encoded=True)
        for number in range(1, MAX_ATTEMPTS + 1):
            session = self._fresh if number == MAX_ATTEMPTS else self._pooled
            attempt, begun_s = _Attempt(), self._monotonic_s()
            try:
                return await session.request(
                    method,
                    url,
                    headers=headers,
                    data=_payload(body, chunked=chunked),
                    chunked=True if chunked else None,
                    allow_redirects=False,
                    trace_request_ctx=attempt,
                )
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                failed_after_s = self._monotonic_s() - begun_s
                if not may_retry(error, reused=attempt.reused, after_s=failed_after_s, attempt=number):
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


def _session(settings: UpstreamSettings, tls: ssl.SSLContext, *, force_close: bool) -> aiohttp.ClientSession:
    connector = (
        aiohttp.TCPConnector(limit=0, ssl=tls, force_close=True)
        if force_close
        else aiohttp.TCPConnector(limit=0, ssl=tls, keepalive_timeout=settings.keepalive_seconds)
    )
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=_NOT_ADDED,
        max_line_size=HEADER_BYTES,
        max_field_size=HEADER_BYTES,
        trace_configs=[_reuse_tracer()],
        timeout=aiohttp.ClientTimeout(
            total=settings.total_timeout_seconds,
            sock_connect=settings.connect_timeout_seconds,
            sock_read=settings.idle_timeout_seconds,
        ),
    )


def _reuse_tracer() -> TraceConfig:
    async def note_reuse(_session: object, context: object, _params: object) -> None:
        context.trace_request_ctx.reused = True  # type: ignore[attr-defined]

    tracer = TraceConfig()
    tracer.on_connection_reuseconn.append(note_reuse)
    return tracer
