"""The relay: a request in, the upstream's answer out, chunk by chunk and unchanged; one record written on the way.

With `upstream` the only place of the data path that knows the HTTP library; what is decided, is decided on plain values
in `headers`, `keys`, `exchange` and `recording`. The order that matters: a chunk is looked at, then passed on; at the end
of an exchange the record is written before the client can see that end.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

from aiohttp import ClientError, hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.errors import BadRequestError, RelayError, RequestTooLargeError, UpstreamBrokeError, UpstreamStalledError
from proxy.gateway.draining import Background, drain
from proxy.gateway.estimating import Sent
from proxy.gateway.exchange import Asked, Caps, Clock, Estimates, Exchange, KeepsRecords, Maker, outcome_of
from proxy.gateway.framing import (
    LAST_CHUNK,
    Framing,
    LineBreakError,
    chunk,
    response_framing,
    response_head,
)
from proxy.gateway.headers import (
    ERROR_HEADER,
    EXCHANGE_HEADER,
    VERSION_HEADER,
    Passing,
    RawHeaders,
    label_of,
    purpose_of,
    with_length,
)
from proxy.gateway.keys import app_of, credential_of
from proxy.gateway.limits import ClientSide
from proxy.gateway.recording import RecordMaker
from proxy.gateway.upstream import HEADER_BYTES, Answer, Upstream, as_break, not_http, was_sent
from proxy.metering.include_usage import UsageChunkFilter, with_include_usage
from proxy.metering.request import RequestFacts, api_of, read_request
from proxy.usage import METERED_APIS, Api, Outcome

UPSTREAM_NAME: Final = "default"


class RelayParts(NamedTuple):
    """What the relay is given."""

    upstream: Upstream
    passing: Passing
    keeper: KeepsRecords
    make_record: RecordMaker
    estimates: Estimates
    expected_version: Callable[[RequestFacts, float], str | None]
    clock: Clock
    new_id: Callable[[], str]
    hash_secret: bytes
    max_request_bytes: int
    observe_overhead: Callable[[float], None]
    caps_for: Callable[[str], Caps | None]
    refuse_mismatch: Callable[[RequestFacts, str], None]
    """Raises RelayError where the version a client expects is known not to answer."""
    add_include_usage: bool = False


_ASK_FOR_USAGE: Final = frozenset({Api.CHAT, Api.FIM})
"""The dialects that report a stream's usage only when asked."""


class _PassedResponse(web.StreamResponse):
    """The upstream's answer on its way to the client: exactly the lines and the bytes it is given, written by itself.

    What the server asks of a response once the handler is done is answered so that it adds nothing: `prepare` and
    `write_eof` do nothing any more, and `keep_alive` says whether the connection goes on.
    """

    def __init__(self, request: web.BaseRequest, answer: Answer, own_headers: bytes) -> None:
        """Raises LineBreakError for a head that cannot be written."""
        super().__init__(status=answer.status)
        version = request.version[0], request.version[1]
        has_length = answer.content_length is not None
        self._framing = response_framing(version, request.method, answer.status, has_length=has_length)
        self._keep_alive = request.keep_alive and self._framing is not Framing.CLOSE
        self._transport = request.transport
        self._writer = request.writer
        self._held = response_head(
            version,
            answer.status,
            answer.reason,
            answer.headers + own_headers,
            self._framing,
            keep_alive=self._keep_alive,
        )

    def begin(self) -> None:
        """Write the head. Without this call it goes out together with the first of the body."""
        self._write(b"")

    async def pass_on(self, data: bytes) -> None:
        """Write a piece of the body; waits while the client is behind. Raises ConnectionError where it is gone."""
        if data and self._framing is not Framing.NONE:
            self._write(chunk(data) if self._framing is Framing.CHUNKED else data)
            await self._writer.drain()

    async def end(self, data: bytes) -> None:
        """Write the last piece, and that it is the last."""
        if self._framing is Framing.CHUNKED:
            self._write(chunk(data) + LAST_CHUNK if data else LAST_CHUNK)
        else:
            self._write(data if self._framing is not Framing.NONE else b"")
        await self._writer.drain()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing: the head is written."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: the end is written."""

    def _write(self, data: bytes) -> None:
        if self._held:
            data, self._held = self._held + data, b""
            self._writer.output_size += 1  # so that the server adds no error page of its own behind this
        if not data:
            return
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the client is gone")
        self._transport.write(data)


class Relay:
    """The handler of every request on the API port."""

    def __init__(self, parts: RelayParts) -> None:
        self._parts = parts
        self._handling = 0
        self._drains = Background()
        self._settling = Background()
        self._maker = Maker(parts.make_record, parts.estimates, self._settling.start)
        self.stopping = False

    def __repr__(self) -> str:
        return f"<Relay in_flight={self.in_flight} stopping={self.stopping}>"

    @property
    def in_flight(self) -> int:
        """Exchanges under way, with those that are read on without their client."""
        return self._handling + len(self._drains)

    async def close(self) -> None:
        """End what goes on without a client; every exchange has its record when this returns."""
        self._drains.cancel()
        await self._drains.finish()
        await self._settling.finish()

    def server(self) -> web.Server:
        """The HTTP server of this relay; a client that leaves cancels its handler, so that the upstream is closed."""
        return web.Server(
            self.handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            max_line_size=HEADER_BYTES,
            max_field_size=HEADER_BYTES,
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Relay one request."""
        exchange = self._begin(request)
        self._handling += 1
        try:
            return await self._relay(request, exchange)
        except RelayError as error:
            return await self._own_answer(exchange, error)
        except ConnectionError:  # the client's: the upstream's have been translated
            self._end_of(exchange, Outcome.CLIENT_DISCONNECTED)
            return web.Response()  # nobody is there to get it
        except asyncio.CancelledError:
            self._end_of(exchange, Outcome.INTERRUPTED if self.stopping else Outcome.CLIENT_DISCONNECTED)
            raise
        finally:
            self._end_of(exchange, Outcome.INTERRUPTED)  # where all went as foreseen, it has its record already
            self._handling -= 1

    @staticmethod
    def _end_of(exchange: Exchange, outcome: Outcome) -> None:
        """The client's side is over. An exchange that is read on ends later."""
        if not exchange.draining:
            exchange.end(outcome)
            exchange.close()

    def _begin(self, request: web.BaseRequest) -> Exchange:
        headers, parts = request.headers, self._parts
        app = app_of(headers.get("X-Meter-App"), credential_of(headers), parts.hash_secret)
        asked = Asked(
            app,
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
            maker=self._maker,
            caps=parts.caps_for(app),
        )

    async def _relay(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        parts = self._parts
        if not request.raw_path.startswith("/"):
            raise BadRequestError("The request target has to be a path.")
        body = await self._read_body(request)
        read_s = parts.clock.monotonic_s()
        encoding = request.headers.get(hdrs.CONTENT_ENCODING, "")
        exchange.request = read_request(exchange.request.api, body, encoding, _path(request))
        exchange.body = Sent(body, encoding)
        self._parts.refuse_mismatch(exchange.request, exchange.asked.expected_version)
        asked = self._asking_for_usage(exchange, body, encoding)
        exchange.begin()
        handed_on_s = parts.clock.monotonic_s()
        answer = await self._send(request, exchange, asked)
        try:
            answered_s = parts.clock.monotonic_s()
            response = self._start(request, exchange, answer)
            parts.observe_overhead(handed_on_s - read_s + parts.clock.monotonic_s() - answered_s)
            await _pass_on(exchange, answer, response, None if asked is None else _filter_for(answer))
        except UpstreamBrokeError as error:
            stalled = isinstance(error, UpstreamStalledError)
            exchange.end(Outcome.TIMED_OUT if stalled else Outcome.UPSTREAM_DISCONNECTED)
            await exchange.settled()
            _break_off(request)
        except (ConnectionError, asyncio.CancelledError):
            self._read_on(exchange, _there(answer))
            raise
        finally:
            if not exchange.draining:
                answer.close()
        return response

    def _asking_for_usage(self, exchange: Exchange, body: bytes, encoding: str) -> bytes | None:
        """The body with `include_usage` added, where the operator wants that and the client said nothing; else None."""
        asks = self._parts.add_include_usage and exchange.request.streamed and not encoding
        return with_include_usage(body) if asks and exchange.request.api in _ASK_FOR_USAGE else None

    async def _send(self, request: web.BaseRequest, exchange: Exchange, asked: bytes | None) -> Answer:
        """Send the request on. One that would be drained is sent by a task of its own, which outlives the client."""
        headers = request.raw_headers if asked is None else with_length(request.raw_headers, len(asked))
        sending = self._sending(request, exchange.body.body if asked is None else asked, headers)
        try:
            if exchange.caps is None:
                return await sending
            task = asyncio.get_running_loop().create_task(sending)
            try:
                return await asyncio.shield(task)
            except asyncio.CancelledError:
                self._read_on(exchange, task)
                if not exchange.draining:
                    task.cancel()
                raise
        except LineBreakError as error:
            exchange.sent = False
            raise BadRequestError("The request's head holds a line break where none belongs.") from error

    async def _sending(self, request: web.BaseRequest, body: bytes, headers: RawHeaders) -> Answer:
        parts = self._parts
        return await parts.upstream.send(
            request.method,
            request.raw_path,
            parts.passing.of_request(headers),
            body,
            chunked=hdrs.TRANSFER_ENCODING in request.headers,
            client=ClientSide(partial(_is_behind, request), partial(_give_up, request)),
        )

    def _read_on(self, exchange: Exchange, answering: "asyncio.Future[Answer]") -> None:
        """The client is gone; read the upstream on, where that is wanted, may tell a usage, and not everything is to end."""
        if exchange.caps is not None and exchange.may_report and not self.stopping and not exchange.recorded:
            exchange.draining = True
            self._drains.start(drain(exchange, answering, exchange.caps))

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        limit = self._parts.max_request_bytes
        if (request.content_length or 0) > limit:
            raise RequestTooLargeError.beyond(limit)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        chunks: list[bytes] = []
        size = 0
        try:
            while chunk := await request.content.readany():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise RequestTooLargeError.beyond(limit)
        except HttpProcessingError as error:
            raise BadRequestError("The request's body is not framed as HTTP wants it.") from error
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _start(self, request: web.BaseRequest, exchange: Exchange, answer: Answer) -> _PassedResponse:
        """Send the answer's head to the client, at once: DeepSeek's comes long before the first token.

        Where the first of the body is here already, both go out in one write.
        """
        exchange.answered(answer.status, answer.content_encoding)
        try:
            response = _PassedResponse(request, answer, self._own_headers(exchange, answer.status))
        except LineBreakError as error:
            raise not_http() from error
        if not answer.body_has_begun:
            response.begin()
        return response

    def _own_headers(self, exchange: Exchange, status: int) -> bytes:
        lines = f"{EXCHANGE_HEADER}: {exchange.exchange_id}\r\n"
        if status < 400 and exchange.request.api in METERED_APIS:
            version = self._parts.expected_version(exchange.request, self._parts.clock.wall_s())
            if version is not None:
                lines += f"{VERSION_HEADER}: {version}\r\n"
        return lines.encode()

    async def _own_answer(self, exchange: Exchange, error: RelayError) -> web.StreamResponse:
        """Answer in the upstream's place, in its error shape."""
        exchange.refused(error.status, sent=exchange.sent and was_sent(error))
        exchange.end(outcome_of(error))
        await exchange.settled()
        body = error.body()
        response = web.Response(status=error.status, body=body, content_type="application/json")
        response.headers[ERROR_HEADER] = "1"
        response.headers[EXCHANGE_HEADER] = exchange.exchange_id
        if isinstance(error, RequestTooLargeError):
            response.force_close()  # the rest of the body is still on its way
        return response


async def _pass_on(
    exchange: Exchange, answer: Answer, response: _PassedResponse, extra: UsageChunkFilter | None
) -> None:
    """Pass the body on as it comes. The record is written before the client can see the end, whatever marks it."""
    received = 0
    while True:
        try:
            data = await answer.next_chunk()
        except (ClientError, UpstreamBrokeError) as error:
            if extra is not None:  # what was held of a half event is the client's, too
                await response.pass_on(extra.finish())
            raise error if isinstance(error, UpstreamBrokeError) else as_break(error) from error
        received += len(data)
        ended = exchange.feed(data) if data else True
        at_end = answer.at_end()
        if ended or at_end or received == answer.content_length:
            exchange.end(Outcome.COMPLETE)
            if exchange.settling is not None:
                await exchange.settled()
        if extra is not None:
            data = extra.feed(data) + (extra.finish() if at_end else b"")
            response.begin()
        if at_end:
            await response.end(data)
            return
        await response.pass_on(data)


def _filter_for(answer: Answer) -> UsageChunkFilter | None:
    """What takes the extra chunk out. Of a body with a length, or a compressed one, nothing can be taken."""
    return UsageChunkFilter() if answer.content_length is None and not answer.content_encoding else None


def _there(answer: Answer) -> "asyncio.Future[Answer]":
    """An answer that is there, as one that may still be awaited."""
    there: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    there.set_result(answer)
    return there


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


def _path(request: web.BaseRequest) -> str:
    return request.raw_path.partition("?")[0]
