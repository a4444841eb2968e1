"""One exchange of the simulated API, from a request's bytes to its entry in the ledger.

Here it is decided what an exchange is: refused, delivered, broken off or abandoned. Sending is `delivery`'s business,
prices are `tariff`'s; an exchange is entered exactly once, whatever happens to it.
"""

import time
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
from aiohttp import web

from proxy.simulator import refusals
from proxy.simulator.billing import Ending, Entry, Ledger
from proxy.simulator.delivery import BASE_HEADERS, TRACE_HEADER, Delivery, Progress, Shape, Sleep
from proxy.simulator.plan import ForcedValueError, Plan, Wish, draw_ids, make_plan, read_forced
from proxy.simulator.scenario import Model, Scenario, Swap
from proxy.simulator.tariff import Bill, Tariff, Tokens
from proxy.usage import Api

TAG_HEADER = "X-Simulator-Tag"

_BEARER = "bearer "


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Thinking(msgspec.Struct):
    type: str = "enabled"


class _Asked(msgspec.Struct, kw_only=True):
    """The fields of a request that matter here. Wrong or missing ones are a 422."""

    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    thinking: _Thinking | None = None
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tools: list[msgspec.Raw] | None = None


class _ChatAsked(_Asked, kw_only=True):
    messages: list[msgspec.Raw]


class _FimAsked(_Asked, kw_only=True):
    prompt: str


_DECODERS: Mapping[Api, "msgspec.json.Decoder[_ChatAsked] | msgspec.json.Decoder[_FimAsked]"] = {
    Api.CHAT: msgspec.json.Decoder(_ChatAsked),
    Api.FIM: msgspec.json.Decoder(_FimAsked),
}


class RefusedError(Exception):
    """The exchange ends with an error answer."""

    def __init__(self, refusal: refusals.Refusal) -> None:
        super().__init__(refusal.status)
        self.refusal = refusal


class _Begun(msgspec.Struct, frozen=True):
    """What is known of an exchange when its request has been read."""

    ledger: Ledger
    number: int
    api: Api
    tag: str
    start_s: float
    asked: _Asked | None


class Exchanges:
    """Answers what costs tokens, and keeps the ledger that a reset replaces."""

    def __init__(self, scenario: Scenario, clock: Callable[[], float] = time.time, *, sleep: Sleep) -> None:
        self._scenario = scenario
        self._clock = clock
        self._tariff = Tariff(scenario)
        self._delivery = Delivery(scenario, sleep)
        self._names = {name: model for model in scenario.models for name in model.names}
        self.reset()

    def __repr__(self) -> str:
        return f"Exchanges({self.ledger!r})"

    def reset(self) -> None:
        """Starts again with exchange 0. Exchanges that are still open end in the ledger they began in."""
        self.ledger = Ledger(self._scenario.balance)
        self._started_s = self._clock()

    async def answer(self, http: web.Request, api: Api) -> web.StreamResponse:
        """Reads a request, answers it, and enters it. A client that leaves while it sends never began an exchange."""
        body = await http.read()
        ledger = self.ledger
        number, tag, start_s = ledger.begin(), http.headers.get(TAG_HEADER, ""), self._clock()
        begun = _Begun(ledger, number, api, tag, start_s, None)
        try:
            authorized(http.headers)
            begun = msgspec.structs.replace(begun, asked=_read(body, api))
            model, plan = self._decide(begun, http.headers)
        except RefusedError as error:
            return self._refuse(begun, error.refusal)
        return await self._deliver(http, begun, model, plan)

    def _decide(self, begun: _Begun, headers: Mapping[str, str]) -> tuple[Model, Plan]:
        """The model and the plan of an exchange. Raises RefusedError where there is none, or an error was drawn."""
        asked = begun.asked
        model = None if asked is None else self._names.get(asked.model)
        if asked is None or model is None:
            raise RefusedError(refusals.wrong_model("" if asked is None else asked.model, self._scenario.listed()))
        if begun.ledger.empty and self._scenario.balance.refuse_when_empty:
            raise RefusedError(refusals.drawn(402))
        plan = self._plan(begun, asked, model, headers)
        if plan.error_status is not None:
            raise RefusedError(refusals.drawn(plan.error_status))
        return model, plan

    def _plan(self, begun: _Begun, asked: _Asked, model: Model, headers: Mapping[str, str]) -> Plan:
        try:
            forced = read_forced(headers)
        except ForcedValueError as error:
            raise RefusedError(refusals.bad_request(str(error))) from error
        swap, wish = self._swap(model, begun.number), _wish(asked, fim=begun.api is Api.FIM)
        return make_plan(self._scenario, model, number=begun.number, swap=swap, wish=wish, forced=forced)

    def _swap(self, model: Model, number: int) -> Swap | None:
        """The latest silent change of a model that has happened, in the order of the scenario."""
        elapsed = self._clock() - self._started_s
        happened = None
        for swap in self._scenario.swaps:
            by_number = swap.after_exchanges is not None and number >= swap.after_exchanges
            by_time = swap.after_seconds is not None and elapsed >= swap.after_seconds
            if swap.model in model.names and (by_number or by_time):
                happened = swap
        return happened

    async def _deliver(self, http: web.Request, begun: _Begun, model: Model, plan: Plan) -> web.StreamResponse:
        """Sends the planned answer and bills what came of it, also when the client leaves on the way."""
        progress = Progress(plan)
        try:
            response = await self._delivery.send(http, _shape(begun), plan, int(begun.start_s), progress)
        except BaseException:  # a cancelled handler or a lost connection: the client has gone
            self._enter(begun, model, plan, Ending.ABORTED, progress.produced())
            raise
        if progress.finished:
            self._enter(begun, model, plan, Ending.COMPLETED, plan.tokens)
        else:
            self._enter(begun, model, plan, Ending.BROKEN, progress.produced())
        return response

    def _enter(self, begun: _Begun, model: Model, plan: Plan, ending: Ending, tokens: Tokens) -> None:
        """Bills `tokens` at the price of this moment."""
        now = self._clock()
        bill = self._tariff.bill(model, tokens, now)
        begun.ledger.enter(_entry(begun, ending, plan, now, tokens=tokens, bill=bill))

    def _refuse(self, begun: _Begun, refusal: refusals.Refusal) -> web.Response:
        """Answers with an error, which costs nothing."""
        _, trace_id = draw_ids(self._scenario.seed, begun.number)
        begun.ledger.enter(
            Entry(
                ending=Ending.ERROR,
                trace_id=trace_id,
                tag=begun.tag,
                model=begun.asked.model if begun.asked else "",
                api=begun.api,
                streamed=_streamed(begun),
                status=refusal.status,
                start_s=begun.start_s,
                end_s=self._clock(),
            )
        )
        return error_response(refusal, trace_id)


def error_response(refusal: refusals.Refusal, trace_id: str) -> web.Response:
    """A refusal as HTTP, with a content-length as recorded ones have."""
    headers = {**BASE_HEADERS, "Content-Type": refusal.content_type, TRACE_HEADER: trace_id}
    return web.Response(status=refusal.status, body=refusal.body, headers=headers)


def authorized(headers: Mapping[str, str]) -> None:
    """Raises RefusedError unless there is a bearer. It is looked at for being there, and for nothing else."""
    value = headers.get("Authorization", "")
    if not value.lower().startswith(_BEARER) or not value[len(_BEARER) :].strip():
        raise RefusedError(refusals.no_authorization())


def _read(body: bytes, api: Api) -> _Asked:
    """The request. Raises RefusedError with 400 for what is no JSON and 422 for wrong fields."""
    try:
        return _DECODERS[api].decode(body)
    except msgspec.ValidationError as error:
        raise RefusedError(refusals.wrong_fields(_as_serde(str(error)), len(body))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusedError(refusals.not_json(str(error))) from error


def _as_serde(message: str) -> str:
    """A message of msgspec in the words of DeepSeek's JSON library, for the one case that matters: a missing field."""
    _, missing, field = message.partition("missing required field ")
    return f"missing field {field}" if missing else message


def _wish(asked: _Asked, *, fim: bool) -> Wish:
    thinking = None if asked.thinking is None else asked.thinking.type == "enabled"
    return Wish(
        thinking=thinking,
        tools=bool(asked.tools),
        max_tokens=asked.max_tokens,
        streamed=bool(asked.stream),
        fim=fim,
    )


def _shape(begun: _Begun) -> Shape:
    options = begun.asked.stream_options if begun.asked else None
    include_usage = bool(options and options.include_usage)
    return Shape(streamed=_streamed(begun), include_usage=include_usage, fim=begun.api is Api.FIM)


def _streamed(begun: _Begun) -> bool:
    return bool(begun.asked and begun.asked.stream)


def _entry(begun: _Begun, ending: Ending, plan: Plan, end_s: float, *, tokens: Tokens, bill: Bill) -> Entry:
    return Entry(
        ending=ending,
        exchange_id=plan.exchange_id,
        trace_id=plan.trace_id,
        tag=begun.tag,
        model=begun.asked.model if begun.asked else "",
        served=plan.served,
        fingerprint=plan.fingerprint,
        api=begun.api,
        streamed=_streamed(begun),
        status=200,
        start_s=begun.start_s,
        end_s=end_s,
        tokens=tokens,
        bill=bill,
    )
