"""The relay: a request in, the upstream's answer out, chunk by chunk and unchanged; one record written on the way.

With `incoming`, `upstream`, `responding` and `connection` the only places of the data path that know the HTTP library; what is decided,
is decided on plain values in `headers`, `entry`, `admission`, `exchange` and `recording`. The order that matters: a chunk is
looked at, then passed on; at the end of an exchange the record is written before the client can see that end.
"""

import asyncio
from collections.abc import Callable
from functools import cache, partial
from typing import Final, NamedTuple

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from proxy.errors import (
    BadRequestError,
    BudgetUsedUpError,
    RelayError,
    RequestTimeoutError,
    RequestTooLargeError,
    UpstreamBrokeError,
    UpstreamStalledError,
)
from proxy.gateway.admission import Admission, Candidate
from proxy.gateway.connection import ClientServer, HeadLimits
from proxy.gateway.draining import Background, drain
from proxy.gateway.entry import Admitted, Asking, Entry
from proxy.gateway.estimating import Sent
from proxy.gateway.exchange import Asked, Clock, Exchange, KeepsRecords, Maker, outcome_of
from proxy.gateway.framing import LineBreakError
from proxy.gateway.headers import (
    ERROR_HEADER,
    EXCHANGE_HEADER,
    VERSION_HEADER,
    RawHeaders,
    label_of,
    purpose_of,
    with_length,
)
from proxy.gateway.hosts import Host, Hosts
from proxy.gateway.incoming import (
    break_off,
    give_up_on,
    is_behind,
    objection_to,
    path_of,
    presented_by,
    whole_body,
)
from proxy.gateway.keys import ANONYMOUS
from proxy.gateway.limits import ClientSide
from proxy.gateway.recording import RecordMaker
from proxy.gateway.responding import PassedResponse, filter_for, pass_on_body
from proxy.gateway.upstream import Answer, not_http, was_sent
from proxy.metering.bounds import bounds_in
from proxy.metering.include_usage import with_include_usage
from proxy.metering.request import RequestFacts, api_of, model_in, plain_body, read_request
from proxy.pricing.budgets import Whose
from proxy.usage import METERED_APIS, Api, Outcome


class RequestLimits(NamedTuple):
    """What a request may be: its head, its body in bytes, and the seconds its body may take."""

    head: HeadLimits
    body_bytes: int
    body_timeout_s: float


class RelayParts(NamedTuple):
    """What the relay is given."""

    hosts: Hosts
    keeper: KeepsRecords
    make_record: RecordMaker
    admission: Admission | None
    """Reserves in budgets; None where there is none that refuses."""
    entry: Entry
    """Who is let in, and what he may ask."""
    expected_version: Callable[[str, RequestFacts, float], str | None]
    """The version known before the body, by upstream, request and instant."""
    clock: Clock
    new_id: Callable[[], str]
    limits: RequestLimits
    observe_overhead: Callable[[float], None]
    refuse_mismatch: Callable[[str, RequestFacts, str], None]
    """Raises RelayError where the version a client expects is known not to answer. By upstream, request and expectation."""


_NOT_READ_ON: Final = frozenset({400, 408, 413})
"""After these the connection is closed: what follows is the rest of a body, or nobody knows what it is."""

_ASK_FOR_USAGE: Final = frozenset({Api.CHAT, Api.FIM})
"""The dialects that report a stream's usage only when asked."""


class Relay:
    """The handler of every request on the API port."""

    def __init__(self, parts: RelayParts) -> None:
        self._parts = parts
        self._handling = 0
        self._drains = Background()
        self._settling = Background()
        self._makers = {
            host.name: Maker(parts.make_record, host.estimates, self._settling.start) for host in parts.hosts
        }
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
        """The HTTP server of this relay."""
        return ClientServer(self.handle, self._parts.limits.head)

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
        asked = Asked(
            ANONYMOUS,
            purpose_of(headers.get("X-Meter-Purpose")),
            label_of(headers.get("X-Meter-Expect-Version")),
        )
        facts = RequestFacts(api_of(request.method, path_of(request)))
        return Exchange(
            parts.new_id(),
            upstream=parts.hosts.default.name,
            asked=asked,
            request=facts,
            clock=parts.clock,
            keeper=parts.keeper,
            maker=self._makers[parts.hosts.default.name],
        )

    async def _relay(self, request: web.BaseRequest, exchange: Exchange) -> web.StreamResponse:
        parts = self._parts
        if reason := objection_to(request):
            raise BadRequestError(reason)
        admitted = self._admit(request, exchange)
        body = await self._read_body(request)
        read_s = parts.clock.monotonic_s()
        encoding = request.headers.get(hdrs.CONTENT_ENCODING, "")
        exchange.request = read_request(exchange.request.api, body, encoding, path_of(request))
        exchange.body = Sent(body, encoding)
        host = self._route(exchange)
        parts.entry.allow(admitted, lambda: self._asking(request, exchange))
        parts.refuse_mismatch(host.name, exchange.request, exchange.asked.expected_version)
        asked = _asking_for_usage(host, exchange, encoding)
        await self._take_place(admitted, exchange)
        if parts.admission is not None:
            await self._reserve(exchange, parts.admission)
        exchange.begin()
        handed_on_s = parts.clock.monotonic_s()
        answer = await self._send(request, exchange, host, asked)
        try:
            answered_s = parts.clock.monotonic_s()
            response = self._start(request, exchange, answer)
            parts.observe_overhead(handed_on_s - read_s + parts.clock.monotonic_s() - answered_s)
            await pass_on_body(exchange, answer, response, None if asked is None else filter_for(answer))
        except UpstreamBrokeError as error:
            stalled = isinstance(error, UpstreamStalledError)
            exchange.end(Outcome.TIMED_OUT if stalled else Outcome.UPSTREAM_DISCONNECTED)
            await exchange.settled()
            break_off(request)
        except (ConnectionError, asyncio.CancelledError):
            self._read_on(exchange, _there(answer))
            raise
        finally:
            if not exchange.draining:
                answer.close()
        return response

    async def _reserve(self, exchange: Exchange, admission: Admission) -> None:
        """Hold what the exchange may cost in its budgets. Raises RelayError where it may not begin."""
        request, asked, sent = exchange.request, exchange.asked, exchange.body
        version = self._parts.expected_version(exchange.upstream, request, self._parts.clock.wall_s()) or request.model
        candidate = Candidate(
            exchange.exchange_id,
            Whose(asked.payer, asked.app, version, request.model, asked.purpose.value, asked.budgets),
            exchange.upstream,
            request,
            cache(lambda: bounds_in(plain_body(sent.body, sent.content_encoding), request.api)),
            exchange.start_s,
        )
        try:
            wants = admission.wants(candidate)
        except RelayError:
            raise
        except Exception as error:  # noqa: BLE001 - promise 3: what cannot be worked out is counted, and the exchange goes on
            self._parts.keeper.fault("reserve", error)
            return
        if not wants:
            return
        exchange.is_reserved = True  # from here on something may be held, whatever comes of it
        try:
            exchange.reserved = await admission.reserve(candidate, wants)
        except BudgetUsedUpError as error:
            exchange.is_reserved = False
            exchange.refused_by = error.budget
            raise

    def _admit(self, request: web.BaseRequest, exchange: Exchange) -> Admitted:
        """Find out who asks, and why. Raises RelayError for somebody who is not let in; that is a record, too."""
        entry, presented = self._parts.entry, presented_by(request)
        admitted = entry.admit(presented)
        budgets = admitted.key.budgets if admitted.key else ()
        exchange.asked = exchange.asked._replace(app=admitted.app, payer=admitted.payer, budgets=budgets)
        purpose = entry.purpose(admitted, presented, exchange.request.api)
        exchange.asked = exchange.asked._replace(purpose=purpose)
        return admitted

    def _asking(self, request: web.BaseRequest, exchange: Exchange) -> Asking:
        known = self._parts.expected_version(exchange.upstream, exchange.request, self._parts.clock.wall_s())
        return Asking(exchange.request, *exchange.body, path_of(request), known)

    async def _take_place(self, admitted: Admitted, exchange: Exchange) -> None:
        """Take a place under the limits of whoever asks, where he has any. The exchange gives it back at its end."""
        lease = self._parts.entry.lease(admitted)
        if lease is not None:
            exchange.lease = lease  # before it is taken: a client may leave while we wait
            await lease.take()

    def _route(self, exchange: Exchange) -> Host:
        """The host that answers for the model asked for; the exchange is its from here on. Raises BadRequestError."""
        hosts = self._parts.hosts
        host = hosts.default if hosts.is_alone else hosts.of(_model_of(exchange))
        exchange.goes_to(host.name, self._makers[host.name], host.caps_for(exchange.asked.app))
        return host

    async def _send(self, request: web.BaseRequest, exchange: Exchange, host: Host, asked: bytes | None) -> Answer:
        """Send the request on. One that would be drained is sent by a task of its own, which outlives the client."""
        headers = request.raw_headers if asked is None else with_length(request.raw_headers, len(asked))
        sending = _sending(request, host, exchange.body.body if asked is None else asked, headers)
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

    def _read_on(self, exchange: Exchange, answering: "asyncio.Future[Answer]") -> None:
        """The client is gone; read the upstream on, where that is wanted, may tell a usage, and not everything is to end."""
        if exchange.caps is not None and exchange.may_report and not self.stopping and not exchange.recorded:
            exchange.draining = True
            self._drains.start(drain(exchange, answering, exchange.caps))

    async def _read_body(self, request: web.BaseRequest) -> bytes:
        limit = self._parts.limits.body_bytes
        if (request.content_length or 0) > limit:
            raise RequestTooLargeError.beyond(limit)
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            if request.content.is_eof():  # as nearly always: it came together with the head, and needs no timer
                return await whole_body(request.content, limit)
            async with asyncio.timeout(self._parts.limits.body_timeout_s):
                return await whole_body(request.content, limit)
        except TimeoutError as error:
            raise RequestTimeoutError("The request's body did not come in time.") from error
        except HttpProcessingError as error:
            raise BadRequestError("The request's body is not framed as HTTP wants it.") from error

    def _start(self, request: web.BaseRequest, exchange: Exchange, answer: Answer) -> PassedResponse:
        """Send the answer's head to the client, at once: DeepSeek's comes long before the first token.

        Where the first of the body is here already, both go out in one write.
        """
        exchange.answered(answer.status, answer.content_encoding)
        try:
            response = PassedResponse(request, answer, self._own_headers(exchange, answer.status))
        except LineBreakError as error:
            raise not_http() from error
        if not answer.body_has_begun:
            response.begin()
        return response

    def _own_headers(self, exchange: Exchange, status: int) -> bytes:
        lines = f"{EXCHANGE_HEADER}: {exchange.exchange_id}\r\n"
        if status < 400 and exchange.request.api in METERED_APIS:
            version = self._parts.expected_version(exchange.upstream, exchange.request, self._parts.clock.wall_s())
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
        if error.retry_after_s:
            response.headers[hdrs.RETRY_AFTER] = str(error.retry_after_s)
        if error.status in _NOT_READ_ON:
            response.force_close()
        return response


def _model_of(exchange: Exchange) -> str:
    """The model that decides the host, also of a request that costs no tokens. Raises BadRequestError where it cannot be read.

    Falling back to the default host would show it a prompt that was meant for another one.
    """
    asked = exchange.request
    if asked.api is Api.OTHER:
        return model_in(exchange.body.body, exchange.body.content_encoding)
    if asked.model or asked.api not in METERED_APIS:
        return asked.model
    raise BadRequestError("The request's model cannot be read, and it decides which upstream answers.")


async def _sending(request: web.BaseRequest, host: Host, body: bytes, headers: RawHeaders) -> Answer:
    return await host.upstream.send(
        request.method,
        request.raw_path,
        headers,
        body,
        chunked=hdrs.TRANSFER_ENCODING in request.headers,
        client=ClientSide(partial(is_behind, request), partial(give_up_on, request)),
    )


def _asking_for_usage(host: Host, exchange: Exchange, encoding: str) -> bytes | None:
    """The body with `include_usage` added, where the operator wants that and the client said nothing; else None."""
    asks = host.add_include_usage and exchange.request.streamed and not encoding
    return with_include_usage(exchange.body.body) if asks and exchange.request.api in _ASK_FOR_USAGE else None


def _there(answer: Answer) -> "asyncio.Future[Answer]":
    """An answer that is there, as one that may still be awaited."""
    there: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    there.set_result(answer)
    return there
