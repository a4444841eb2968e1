"""The relay: a request in, the upstream's answer out, chunk by chunk and unchanged; one record written on the way.

With `upstream` the only place of the data path that knows the HTTP library; what is decided, is decided on plain values
in `headers`, `keys`, `exchange` and `recording`. The order that matters: a chunk is looked at, then passed on; at the end
of an exchange the record is written before the client can see that end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NamedTuple

from aiohttp import ClientError, HttpVersion10, HttpVersion11, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.errors import RelayError, RequestTooLargeError, UpstreamBrokeError, UpstreamStalledError
from proxy.gateway.exchange import Asked, Clock, Exchange, KeepsRecords
from proxy.gateway.headers import (
    ERROR_HEADER,
    EXCHANGE_HEADER,
    VERSION_HEADER,
    Passing,
    label_of,
    purpose_of,
)
from proxy.gateway.keys import app_of
from proxy.gateway.recording import RecordMaker
from proxy.gateway.upstream import HEADER_BYTES, Answer, ClientSide, Upstream, as_break, was_sent
from proxy.metering.request import RequestFacts, api_of, read_request
from proxy.usage import METERED_APIS, Outcome

UPSTREAM_NAME: Final = "default"


class BadRequestError(RelayError):
    """A request that cannot be relayed: its target names another host, or its body is not framed properly."""

    status = 400
    kind = "invalid_request_error"
    code = "invalid_request_error"


class RelayParts(NamedTuple):
    """What the relay is given."""

    upstream: Upstream
    passing: Passing
    keeper: KeepsRecords
    make_record: RecordMaker
    expected_version: Callable[[str, float], str | None]
    clock: Clock
    new_id: Callable[[], str]
    hash_secret: bytes
    max_request_bytes: int
    observe_overhead: Callable[[float], None]


class _PassedResponse(web.StreamResponse):
    """A response whose head is exactly what it was given: no Server, Date or Content-Type of ours."""

    def wait_for_body(self, wait: bool) -> None:
        """Whether the head is kept for the body's first chunk, which then has to be there already."""
        self._send_headers_immediately = not wait

    def pass_on(self, chunk: bytes) -> Awaitable[None]:
        """Write a chunk of the body: `write` without a layer that checks what the relay knows."""
        assert self._payload_writer is not None  # noqa: S101 - set by `prepare`
        return self._payload_writer.write(chunk)

    async def _prepare_headers(self) -> None:
        request, writer = self._req, self._payload_writer
        assert request is not None  # noqa: S101 - both are set by `prepare`, which calls this
        assert writer is not None  # noqa: S101
        keep_alive = request.keep_alive if self._keep_alive is None else self._keep_alive
        if not self._must_be_empty_body:
            if hdrs.CONTENT_LENGTH in self._headers:
                writer.length = self.content_length
            elif request.version >= HttpVersion11:
                writer.enable_chunking()
                self._headers[hdrs.TRANSFER_ENCODING] = "chunked"
            else:
                keep_alive = False  # HTTP/1.0: the body ends with the connection
        self._keep_alive = keep_alive
        if not keep_alive and request.version >= HttpVersion11:
            self._headers[hdrs.CONNECTION] = "close"
        elif keep_alive and request.version == HttpVersion10:
            self._headers[hdrs.CONNECTION] = "keep-alive"


class Relay:
    """The handler of every request on the API port."""

    def __init__(self, parts: RelayParts) -> None:
        self._parts = parts
        self.in_flight = 0
        self.stopping = False

    def __repr__(self) -> str:
        return f"<Relay in_flight={self.in_flight} stopping={self.stopping}>"

    def server(self) -> web.Server:
        """The HTTP server of this relay; a client that leaves cancels its handler, so that the upstream is closed."""
        return web.Server(
            self.handle,
            handler_cancellation=True,
            access_log=None,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Relay one request."""
        exchange = self._begin(request)
        self.in_flight += 1
        try:
            return await self._relay(request, exchange)
        except RelayError as error:
            return self._own_answer(exchange, error)
        except ConnectionError:  # the client's: the upstream's have been translated
            exchange.end(Outcome.CLIENT_DISCONNECTED)
            return web.Response()  # nobody is there to get it
        except asyncio.CancelledError:
            exchange.end(Outcome.INTERRUPTED if self.stopping else Outcome.CLIENT_DISCONNECTED)
            raise
        finally:
            self.in_flight -= 1

    def _begin(self, request: web.BaseRequest) -> Exchange:
        headers, parts = request.headers, self._parts
        asked = Asked(
            app_of(headers.get("X-Meter-App"), _credential(request), parts.hash_secret),
            purpose_of(headers.get("X-Meter-Purpose")),
            label_of(headers.get("X-Meter-Expect-Version")),
        )
        facts = RequestFacts(api_of(request.method, _path(request)))
        return Exchange(
            parts.new_id(),
            upstream=UPSTREAM_NAME,
            asked=asked,
            request=facts,
            clock=parts.clock,
            keeper=parts.keeper,
            make_record=parts.make_record,
        )

    async def _relay(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        parts = self._parts
        if not request.raw_path.startswith("/"):
            raise BadRequestError("The request target has to be a path.")
        body = await self._read_body(request)
        read_s = parts.clock.monotonic_s()
        exchange.request = read_request(exchange.request.api, body)
        headers = parts.passing.of_request(request.raw_headers)
        chunked = hdrs.TRANSFER_ENCODING in request.headers
        exchange.sent = True
        handed_on_s = parts.clock.monotonic_s()
        client = ClientSide(partial(_is_behind, request), partial(_give_up, request))
        answer = await parts.upstream.send(
            request.method, request.raw_path, headers, body, chunked=chunked, client=client
        )
        try:
            answered_s = parts.clock.monotonic_s()
            response = await self._start(request, exchange, answer)
            parts.observe_overhead(handed_on_s - read_s + parts.clock.monotonic_s() - answered_s)
            await _pass_on(exchange, answer, response)
        except UpstreamBrokeError as error:
            stalled = isinstance(error, UpstreamStalledError)
            exchange.end(Outcome.TIMED_OUT if stalled else Outcome.UPSTREAM_DISCONNECTED)
            _break_off(request)
        finally:
            answer.close()
        return response

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        limit = self._parts.max_request_bytes
        if (request.content_length or 0) > limit:
            raise _too_large(limit)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunks: list[bytes] = []
        size = 0
        try:
            while chunk := await request.content.readany():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise _too_large(limit)
        except HttpProcessingError as error:
            raise BadRequestError("The request's body is not framed as HTTP wants it.") from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def _start(self, request: web.BaseRequest, exchange: Exchange, answer: Answer) -> _PassedResponse:
        """Send the answer's head to the client, at once: DeepSeek's comes long before the first token.

        Where the first of the body is here already, both go out in one write.
        """
        exchange.answered(answer.status, answer.content_encoding)
        response = _PassedResponse(status=answer.status, reason=answer.reason, headers=answer.headers)
        response.wait_for_body(answer.body_has_begun)
        self._add_own_headers(response, exchange, answer.status)
        await response.prepare(request)
        return response

    def _add_own_headers(self, response: web.StreamResponse, exchange: Exchange, status: int) -> None:
        response.headers[EXCHANGE_HEADER] = exchange.exchange_id
        if status < 400 and exchange.request.api in METERED_APIS:
            version = self._parts.expected_version(exchange.request.model, self._parts.clock.wall_s())
            if version is not None:
                response.headers[VERSION_HEADER] = version

    def _own_answer(self, exchange: Exchange, error: RelayError) -> web.StreamResponse:
        """Answer in the upstream's place, in its error shape."""
        exchange.refused(error.status, sent=exchange.sent and was_sent(error))
        exchange.end(_outcome_of(error))
        body = error.body()
        response = web.Response(status=error.status, body=body, content_type="application/json")
        response.headers[ERROR_HEADER] = "1"
        response.headers[EXCHANGE_HEADER] = exchange.exchange_id
        if isinstance(error, RequestTooLargeError):
            response.force_close()  # the rest of the body is still on its way
        return response


async def _pass_on(exchange: Exchange, answer: Answer, response: _PassedResponse) -> None:
    """Pass the body on as it comes. The record is written before the client can see the end, whatever marks it."""
    received = 0
    while True:
        try:
            chunk = await answer.next_chunk()
        except ClientError as error:
            raise as_break(error) from error
        received += len(chunk)
        ended = exchange.feed(chunk) if chunk else True
        at_end = answer.at_end()
        if ended or at_end or received == answer.content_length:
            exchange.end(Outcome.COMPLETE)
        if at_end:
            await response.write_eof(chunk)
            return
        await response.pass_on(chunk)


def _break_off(request: web.BaseRequest) -> None:
    """Close the client's connection behind what was sent, without a proper end: it sees the same break."""
    if request.transport is not None:
        request.transport.close()


def _is_behind(request: web.BaseRequest) -> bool:
    """True while the client has not read what was sent to it."""
    return request.transport is not None and request.transport.get_write_buffer_size() > 0


def _give_up(request: web.BaseRequest) -> None:
    """Drop a client that does not read any more: what is still to be sent to it will never be."""
    if request.transport is not None:
        request.transport.abort()


def _outcome_of(error: RelayError) -> Outcome:
    if error.status == 504:
        return Outcome.TIMED_OUT
    return Outcome.UPSTREAM_DISCONNECTED if error.status == 502 else Outcome.REFUSED


def _too_large(limit: int) -> RequestTooLargeError:
    return RequestTooLargeError(f"The request's body is larger than {limit} bytes, the limit of this proxy.")


def _credential(request: web.BaseRequest) -> str | None:
    return request.headers.get(hdrs.AUTHORIZATION) or request.headers.get("x-api-key")


def _path(request: web.BaseRequest) -> str:
    return request.raw_path.partition("?")[0]
