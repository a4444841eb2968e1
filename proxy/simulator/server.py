"""The HTTP endpoints of the simulated API, on aiohttp.

    POST /chat/completions, /completions     also below /v1 and /beta
    GET  /models (also below /v1), /user/balance
    GET  /_simulator/ledger[?exchanges=1]    what was billed; its form stands at the head of `billing`
    POST /_simulator/reset                   an empty ledger, a full balance, the first exchange again

Anything else is the API's own 404. Requests may carry `X-Simulator-Behaviour`, `X-Simulator-Tokens`,
`X-Simulator-After` (head of `plan`) and `X-Simulator-Tag`, which the ledger keeps. Any non-empty bearer is welcome and
is neither kept nor logged. What an exchange says and costs follows from the scenario's seed and the exchange's number.
A server that runs this app must cancel handlers when their client leaves, as `listening` does: that is how an exchange
becomes an aborted one.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from secrets import token_hex

import msgspec
from aiohttp import web

from proxy.simulator import refusals, small_answers
from proxy.simulator.delivery import BASE_HEADERS, JSON_HEADERS, TRACE_HEADER, Sleep
from proxy.simulator.exchange import Exchanges, RefusedError, authorized, error_response
from proxy.simulator.scenario import Scenario
from proxy.usage import Api

MAX_REQUEST_BYTES = 64 * 1024 * 1024
"""More than a million tokens of text: the largest context there is."""

_SHUTDOWN_SECONDS = 1.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(
    scenario: Scenario, *, clock: Callable[[], float] = time.time, sleep: Sleep = asyncio.sleep
) -> web.Application:
    """The simulated API of `scenario`. `clock` (seconds since the epoch) decides prices, `sleep` makes the pauses."""
    app = web.Application(client_max_size=MAX_REQUEST_BYTES)
    endpoints = _Endpoints(scenario, Exchanges(scenario, clock, sleep=sleep))
    app.add_routes(endpoints.routes())
    return app


@asynccontextmanager
async def listening(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Runs `app` while the context is open and gives its base URL; port 0 takes a free one."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound = runner.addresses[0][1]
        yield f"http://{f'[{host}]' if ':' in host else host}:{bound}"
    finally:
        await runner.cleanup()


async def serve(host: str, port: int, scenario: Scenario) -> None:
    """Runs the simulated API of `scenario` until cancelled."""
    async with listening(create_app(scenario), host, port):
        await asyncio.Event().wait()


class _Endpoints:
    """What the app answers, path by path."""

    def __init__(self, scenario: Scenario, exchanges: Exchanges) -> None:
        self._scenario = scenario
        self._exchanges = exchanges

    def __repr__(self) -> str:
        return f"_Endpoints({self._exchanges!r})"

    def routes(self) -> list[web.RouteDef]:
        """Every endpoint; the last one takes what no other does."""
        return [
            *(web.post(f"{base}/chat/completions", self._chat) for base in ("", "/v1", "/beta")),
            *(web.post(f"{base}/completions", self._fim) for base in ("", "/v1", "/beta")),
            *(web.get(f"{base}/models", self._models) for base in ("", "/v1")),
            web.get("/user/balance", self._balance),
            web.get("/_simulator/ledger", self._ledger),
            web.post("/_simulator/reset", self._reset),
            web.route("*", "/{anything:.*}", self._not_found),
        ]

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        return await self._exchanges.answer(http, Api.CHAT)

    async def _fim(self, http: web.Request) -> web.StreamResponse:
        return await self._exchanges.answer(http, Api.FIM)

    async def _models(self, http: web.Request) -> web.StreamResponse:
        return _guarded(http, small_answers.models_body(self._scenario.listed()))

    async def _balance(self, http: web.Request) -> web.StreamResponse:
        return _guarded(http, small_answers.balance_body(*self._exchanges.ledger.balance()))

    async def _ledger(self, http: web.Request) -> web.StreamResponse:
        exchanges = http.query.get("exchanges") == "1"
        return _json(msgspec.json.encode(self._exchanges.ledger.report(exchanges=exchanges)))

    async def _reset(self, _http: web.Request) -> web.StreamResponse:
        self._exchanges.reset()
        return _json(b"{}")

    async def _not_found(self, _http: web.Request) -> web.StreamResponse:
        trace_id = token_hex(16)
        return error_response(refusals.not_found(trace_id), trace_id)


def _guarded(http: web.Request, body: bytes) -> web.Response:
    """`body` for who shows a bearer, else the 401."""
    try:
        authorized(http.headers)
    except RefusedError as error:
        return error_response(error.refusal, token_hex(16))
    return _json(body)


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, headers={**BASE_HEADERS, **JSON_HEADERS, TRACE_HEADER: token_hex(16)})
