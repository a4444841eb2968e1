"""A client's connection before what comes over it is a request: how large and how slow a head may be, and what is no HTTP.

The library's parser decides what HTTP is, and its answer to anything else quotes the line it stumbled over, key and all, in
the response and in the log. Here such a connection gets an error in DeepSeek's shape that quotes nothing, is closed, and is
no exchange: nothing was asked for. One of the places of the data path that know the HTTP library.

Bytes are a head's while the request before them is whole. They are counted, so that a head without end is not kept; and a
timer runs from the first of them, so that a client which sends one byte a second holds a connection and no more than that.
"""

import asyncio
import re
from typing import Any, Final, NamedTuple

import structlog
from aiohttp import web
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy.errors import BadRequestError, HeadTooLargeError, RelayError, RequestTimeoutError
from proxy.gateway.headers import ERROR_HEADER

LINGERING_S: Final = 2.0
"""How long the rest of a refused body is read and thrown away, so that the client gets to read the answer."""

_LINE_EXTRA: Final = len(": \r\n")
_UNREAD_BYTES: Final = 1024
_WITHOUT_A_QUOTE: Final = re.compile(r"(Missing|Duplicate) '[\w-]+' header[\w .]*|Received HTTPS traffic[\w ]*")
"""Messages of the parser that name what is missing and quote nothing."""

log = structlog.get_logger(__name__)


class HeadLimits(NamedTuple):
    """What a request's head may be: bytes in all, headers, seconds; and how long an idle connection is kept."""

    bytes: int
    headers: int
    timeout_s: float
    idle_s: float


class ClientServer(web.Server):
    """The HTTP server of the API port."""

    def __init__(self, handler: Any, limits: HeadLimits) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,  # a client that leaves cancels its handler, so that the upstream is closed
            access_log=None,
            auto_decompress=False,
            max_line_size=limits.bytes,
            max_field_size=limits.bytes,
            max_headers=limits.headers,
            keepalive_timeout=limits.idle_s,
            lingering_time=LINGERING_S,
        )
        self._limits = limits

    def __call__(self) -> RequestHandler:
        """One connection."""
        return ClientConnection(self, self._limits, loop=self._loop, **self._kwargs)


class ClientConnection(RequestHandler):
    """A connection that counts and times heads, and answers itself what is no request."""

    __slots__ = ("_body", "_head_bytes", "_head_timer", "_limits", "_refused")

    def __init__(self, server: web.Server, limits: HeadLimits, **options: Any) -> None:
        super().__init__(server, **options)
        self._limits = limits
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD  # of the newest request: what comes behind its end is a head
        self._refused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The first head is waited for from here on."""
        super().connection_made(transport)
        self._head_timer = self._loop.call_later(self._limits.timeout_s, self._head_is_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Nothing more will come."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of heads and bodies."""
        if self._refused:
            return
        in_head, seen, queued = self._body.is_eof(), self._request_count, len(self._messages)
        super().data_received(data)
        if self._request_count != seen:
            self._requests_came(self._head_bytes + len(data), queued)
        elif in_head and data:
            self._head_goes_on(len(data))

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is no request, or to a fault of ours."""
        error = _refusal(exc)
        if error is None:
            log.error("relay_fault", error=type(exc).__name__, exc_info=exc)
            error = RelayError("The proxy failed; the exchange has its record.")
        else:
            log.info("request_refused", status=error.status, reason=str(error), client=request.remote)
        if request.writer.output_size > 0:
            raise ConnectionResetError("the response has begun, and cannot become another")
        response = web.Response(status=error.status, body=error.body(), content_type="application/json")
        response.headers[ERROR_HEADER] = "1"
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kw: Any) -> None:
        """What the library has to say of a fault, without what it was about; a client's broken framing is none of ours."""
        if not isinstance(kw.get("exc_info"), HttpProcessingError):
            log.error("connection_fault", exc_info=kw.get("exc_info", True))

    def _requests_came(self, at_most: int, queued: int) -> None:
        """Whole heads are there, of `at_most` so many bytes together: only where that is too much they are looked at."""
        self._stop_timer()
        self._head_bytes = 0
        if self._messages:
            self._take_newest(*self._messages[-1])
        if at_most > self._limits.bytes:
            self._refuse_large_head(queued)

    def _take_newest(self, message: RawRequestMessage | _ErrInfo, body: StreamReader) -> None:
        """A head, or the parser's word that it cannot go on: where that came inside a body, whoever reads it has to know."""
        self._refused = isinstance(message, _ErrInfo)
        if isinstance(message, _ErrInfo) and not self._body.is_eof():
            self._messages.pop()
            self._body.set_exception(message.exc)
        else:
            self._body = body

    def _refuse_large_head(self, queued: int) -> None:
        for index in range(queued, len(self._messages)):
            message = self._messages[index][0]
            if isinstance(message, RawRequestMessage) and _size_of(message) > self._limits.bytes:
                while len(self._messages) > index:
                    self._messages.pop()
                self._refuse(HeadTooLargeError.beyond(self._limits.bytes))
                return

    def _head_goes_on(self, size: int) -> None:
        self._head_bytes += size
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._limits.timeout_s, self._head_is_late)
        if self._head_bytes > self._limits.bytes:
            self._refuse(HeadTooLargeError.beyond(self._limits.bytes))

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(RequestTimeoutError("The request's head did not come in time."))
        else:
            self.force_close()  # nothing was said, so nothing is answered

    def _refuse(self, error: RelayError) -> None:
        """Answer behind what is still to be answered, and close; what comes from here on is thrown away.

        The body without end stands for what the client may still be sending: it is given the time to read the answer.
        """
        self._stop_timer()
        self._refused = True
        endless = StreamReader(self, _UNREAD_BYTES, loop=self._loop)
        self._messages.append((_ErrInfo(error.status, error, str(error)), endless))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _size_of(message: RawRequestMessage) -> int:
    fields = sum(len(name) + len(value) + _LINE_EXTRA for name, value in message.raw_headers)
    return len(message.method) + len(message.path) + len("  HTTP/1.1\r\n") + fields


def _refusal(error: BaseException | None) -> RelayError | None:
    """What a client is told that sent no request; None for what was no fault of the client's."""
    if isinstance(error, RelayError):
        return error
    if not isinstance(error, HttpProcessingError):
        return None
    if isinstance(error, LineTooLong) or error.message.startswith("Too many headers"):
        return HeadTooLargeError("The request's head has a longer line, or more headers, than this proxy takes.")
    return BadRequestError(f"This is no HTTP request: {_reason(error)}.")


def _reason(error: HttpProcessingError) -> str:
    """The parser's own words, which stand before what it quotes; nothing where they cannot be told apart."""
    words, quote, _ = error.message.partition(":\n\n")
    if isinstance(error, BadHttpMessage) and (quote or _WITHOUT_A_QUOTE.fullmatch(words)):
        return " ".join(words.split()).rstrip(".")
    return "its first line or a header cannot be read"
