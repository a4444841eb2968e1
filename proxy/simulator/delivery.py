"""Sends a planned answer and keeps count of how far it came. Knows sockets and pauses, not prices.

One event is one write, with a pause after it: even a pause of 0 seconds lets other exchanges and a client's leaving
in between. `Progress` is what the ledger bills if the answer ends early; it is ahead of the client by no more than
what the sockets in between hold.
"""

from collections.abc import Awaitable, Callable
from itertools import islice

import msgspec
from aiohttp import web

from proxy.simulator import answers, small_answers
from proxy.simulator.plan import Behaviour, Plan
from proxy.simulator.scenario import Scenario
from proxy.simulator.tariff import Tokens

Sleep = Callable[[float], Awaitable[None]]

BASE_HEADERS = {
    "Server": "elb",
    "Vary": "origin, access-control-request-method, access-control-request-headers",
    "Access-Control-Allow-Credentials": "true",
    "Strict-Transport-Security": "max-age=31536000; includeSubDomains; preload",
    "X-Content-Type-Options": "nosniff",
}
"""What recorded answers carry, whatever their status."""

STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}
JSON_HEADERS = {"Content-Type": "application/json"}
TRACE_HEADER = "x-ds-trace-id"


class Shape(msgspec.Struct, frozen=True):
    """What shapes the answer besides its plan."""

    streamed: bool
    include_usage: bool
    fim: bool


class Progress:
    """How far an answer came, in deltas: sent ones of a stream, generated ones of a body that is not out yet."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.deltas = 0
        self.finished = False

    def __repr__(self) -> str:
        return f"Progress({self.deltas} deltas of {self._plan.exchange_id}, finished={self.finished})"

    def produced(self) -> Tokens:
        """The tokens used up so far."""
        return answers.produced(self._plan, self.deltas)


class Delivery:
    """Sends answers of one scenario, with its pauses."""

    def __init__(self, scenario: Scenario, sleep: Sleep) -> None:
        self._scenario = scenario
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"Delivery(seed={self._scenario.seed})"

    async def send(
        self, http: web.Request, shape: Shape, plan: Plan, created: int, progress: Progress
    ) -> web.StreamResponse:
        """Sends the answer. `progress.finished` says whether it came to its end or was broken off as planned.

        Raises ConnectionError, or is cancelled, when the client has gone.
        """
        kind = STREAM_HEADERS if shape.streamed else JSON_HEADERS
        response = web.StreamResponse(headers={**BASE_HEADERS, **kind, TRACE_HEADER: plan.trace_id})
        response.enable_chunked_encoding()
        await response.prepare(http)
        await self._signs_of_life(response, plan, streamed=shape.streamed)
        await self._sleep(plan.first_delta_seconds)
        if await self._content(response, shape, plan, created, progress):
            await response.write_eof()
            progress.finished = True
        elif http.transport is not None:
            http.transport.close()
        return response

    async def _signs_of_life(self, response: web.StreamResponse, plan: Plan, *, streamed: bool) -> None:
        """Comments or empty lines, each followed by a pause."""
        sign = answers.KEEP_ALIVE_COMMENT if streamed else answers.KEEP_ALIVE_LINE
        for _ in range(plan.keep_alives):
            await response.write(sign)
            await self._sleep(self._scenario.keep_alive.interval_seconds)

    async def _content(
        self, response: web.StreamResponse, shape: Shape, plan: Plan, created: int, progress: Progress
    ) -> bool:
        """Sends the body. False where the plan breaks it off."""
        if not shape.streamed:
            return await self._body(response, _body(shape, plan, created), plan, progress)
        return await self._events(response, _stream(shape, plan, created), plan, progress)

    async def _events(
        self, response: web.StreamResponse, stream: answers.Stream, plan: Plan, progress: Progress
    ) -> bool:
        """A stream, up to its end or to where it stalls or breaks. The loop is the benchmark's: it only writes."""
        stopping = plan.behaviour in (Behaviour.STALL, Behaviour.BREAK)
        deltas = islice(stream.deltas, plan.after) if stopping else stream.deltas
        await response.write(stream.opening)
        for event in deltas:
            await response.write(event)
            progress.deltas += 1
            await self._sleep(plan.delta_seconds)
        if stopping:
            return await self._stop(plan)
        await response.write(stream.finish)
        if plan.behaviour is Behaviour.BREAK_BEFORE_DONE:
            return await self._stop(plan)
        await response.write(answers.DONE)
        return True

    async def _body(self, response: web.StreamResponse, body: bytes, plan: Plan, progress: Progress) -> bool:
        """A JSON body, after the time its tokens take. A stall comes before its first byte, a break in its middle."""
        for _ in range(answers.parts(plan).deltas if plan.delta_seconds else 0):
            await self._sleep(plan.delta_seconds)
            progress.deltas += 1
        if plan.behaviour is Behaviour.STALL:
            return await self._stop(plan)
        progress.deltas = plan.tokens.completion
        if plan.behaviour in (Behaviour.BREAK, Behaviour.BREAK_BEFORE_DONE):
            await response.write(body[: len(body) // 2])
            return await self._stop(plan)
        await response.write(body)
        return True

    async def _stop(self, plan: Plan) -> bool:
        """Always False: the answer ends here, after a long silence if it is a stall."""
        if plan.behaviour is Behaviour.STALL:
            await self._sleep(self._scenario.mishaps.stall_seconds)
        return False


def _stream(shape: Shape, plan: Plan, created: int) -> answers.Stream:
    make = small_answers.fim_stream if shape.fim else answers.chat_stream
    return make(plan, created, include_usage=shape.include_usage)


def _body(shape: Shape, plan: Plan, created: int) -> bytes:
    return small_answers.fim_body(plan, created) if shape.fim else answers.chat_body(plan, created)
