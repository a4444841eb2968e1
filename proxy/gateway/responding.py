"""The answer on its way to the client: the head and each chunk as they came, the record before their end.

Beside `relay`, `upstream` and `connection` a place of the data path that knows the HTTP library: of the server's side it takes the
connection to write to. What an answer looks like on the wire is decided in `framing`.
"""

from aiohttp import ClientError, web

from proxy.errors import UpstreamBrokeError
from proxy.gateway.exchange import Exchange
from proxy.gateway.framing import LAST_CHUNK, Framing, chunk, response_framing, response_head
from proxy.gateway.upstream import Answer, as_break
from proxy.metering.include_usage import UsageChunkFilter
from proxy.usage import Outcome


class PassedResponse(web.StreamResponse):
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


async def pass_on_body(
    exchange: Exchange, answer: Answer, response: PassedResponse, extra: UsageChunkFilter | None
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


def filter_for(answer: Answer) -> UsageChunkFilter | None:
    """What takes the extra chunk out. Of a body with a length, or a compressed one, nothing can be taken."""
    return UsageChunkFilter() if answer.content_length is None and not answer.content_encoding else None
