"""What one exchange will be: its tokens, its pace, its mishaps and its ids. Pure.

Everything follows from the scenario's seed and the number of the exchange, and is drawn in one fixed order, so that
what a request forces by headers does not change what is drawn for anything else. A request can force

    X-Simulator-Behaviour   one of `Behaviour`, or `error-400` … `error-503`; `plain` forbids every mishap
    X-Simulator-Tokens      `hit,miss,reasoning,answer`, exactly; thinking is on if reasoning is above 0
    X-Simulator-After       after how many deltas a stall or a break comes (default: half of them)
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from random import Random
from uuid import UUID

import msgspec

from proxy.simulator.scenario import Amount, Model, Scenario, Spread, Swap
from proxy.simulator.tariff import Tokens

BEHAVIOUR_HEADER = "X-Simulator-Behaviour"
TOKENS_HEADER = "X-Simulator-Tokens"
AFTER_HEADER = "X-Simulator-After"

ERROR_PREFIX = "error-"
STATUSES = (400, 401, 402, 422, 429, 500, 503)


class Behaviour(StrEnum):
    """How an answer goes. An error is told by `Plan.error_status` instead."""

    PLAIN = "plain"
    KEEP_ALIVE = "keepalive"  # begins with at least one sign of life
    TOOL_CALL = "tool-call"  # answers with a tool call whatever the request offers
    STALL = "stall"  # falls silent with the connection open
    BREAK = "break"  # the connection ends in the middle
    BREAK_BEFORE_DONE = "break-before-done"  # usage was sent, the end of the stream was not


class ForcedValueError(ValueError):
    """A header of the simulator that cannot be understood. Says which and what was expected."""


class Forced(msgspec.Struct, frozen=True):
    """What a request forces; None: drawn."""

    behaviour: Behaviour | None = None
    error_status: int | None = None
    tokens: Tokens | None = None
    after: int | None = None


class Wish(msgspec.Struct, frozen=True):
    """What a request says that changes its answer."""

    thinking: bool | None = None  # None: the model's default
    tools: bool = False
    max_tokens: int | None = None
    streamed: bool = False
    fim: bool = False


class Plan(msgspec.Struct, frozen=True):
    """One exchange before it begins. `after` counts deltas, `offset` is where in the filler text the answer starts."""

    exchange_id: str
    trace_id: str
    served: str
    fingerprint: str
    behaviour: Behaviour
    tokens: Tokens
    thinking: bool
    tool_call: bool
    finish_reason: str
    keep_alives: int
    after: int
    first_delta_seconds: float
    delta_seconds: float
    offset: int
    error_status: int | None = None


def read_forced(headers: Mapping[str, str]) -> Forced:
    """What the simulator's headers of a request force. Raises ForcedValueError."""
    behaviour = headers.get(BEHAVIOUR_HEADER)
    tokens = headers.get(TOKENS_HEADER)
    after = headers.get(AFTER_HEADER)
    kind, status = (None, None) if behaviour is None else _behaviour(behaviour)
    return Forced(
        behaviour=kind,
        error_status=status,
        tokens=None if tokens is None else Tokens(*_numbers(TOKENS_HEADER, tokens, 4)),
        after=None if after is None else _numbers(AFTER_HEADER, after, 1)[0],
    )


def make_plan(scenario: Scenario, model: Model, *, number: int, swap: Swap | None, wish: Wish, forced: Forced) -> Plan:
    """The plan of exchange `number`. `swap` is the latest silent change of this model that has happened."""
    rng = _random(scenario.seed, number)
    ids = _ids(rng)
    status, mishap, keep_alives = _course(scenario, rng, wish, forced)
    tool_call = rng.random() < model.tool_call_share and wish.tools
    tool_call = (tool_call or forced.behaviour is Behaviour.TOOL_CALL) and not wish.fim
    thinking = _thinks(model, wish, forced)
    factor = swap.reasoning_factor if swap else 1.0
    tokens, finish = _limit(_tokens(model, rng, factor, thinking=thinking), wish, thinking=thinking)
    if forced.tokens is not None:
        tokens, finish = _as_answer(forced.tokens) if wish.fim else forced.tokens, "stop"
    return Plan(
        exchange_id=ids[0],
        trace_id=ids[1],
        served=(swap.served if swap else "") or model.served,
        fingerprint=swap.fingerprint if swap else model.fingerprint,
        behaviour=mishap,
        tokens=tokens,
        thinking=thinking,
        tool_call=tool_call,
        finish_reason="tool_calls" if tool_call and finish == "stop" else finish,
        keep_alives=keep_alives,
        after=tokens.completion // 2 if forced.after is None else forced.after,
        first_delta_seconds=_draw(rng, model.first_delta_seconds),
        delta_seconds=_draw(rng, model.delta_seconds),
        offset=rng.randrange(1 << 16),
        error_status=status,
    )


def draw_ids(seed: int, number: int) -> tuple[str, str]:
    """The ids that exchange `number` has: of its answer (a UUID) and of its trace (32 hex digits)."""
    return _ids(_random(seed, number))


def _random(seed: int, number: int) -> Random:
    return Random(f"{seed}:{number}")  # noqa: S311  # reproducible on purpose, and no secret


def _ids(rng: Random) -> tuple[str, str]:
    return str(UUID(int=rng.getrandbits(128), version=4)), f"{rng.getrandbits(128):032x}"


def _course(scenario: Scenario, rng: Random, wish: Wish, forced: Forced) -> tuple[int | None, Behaviour, int]:
    """Error status, mishap and number of keep-alives: drawn, unless the request forces how it goes."""
    status, mishap = _mishap(scenario, rng.random(), streamed=wish.streamed)
    keep_alives = _keep_alives(scenario, rng, streamed=wish.streamed)
    if forced.error_status is not None:
        return forced.error_status, Behaviour.PLAIN, 0
    if forced.behaviour is not None:
        return None, forced.behaviour, max(1, keep_alives) if forced.behaviour is Behaviour.KEEP_ALIVE else 0
    return status, mishap, keep_alives


def _as_answer(tokens: Tokens) -> Tokens:
    """The same completion without reasoning: fill-in-the-middle never thinks."""
    return msgspec.structs.replace(tokens, reasoning=0, answer=tokens.completion)


def _behaviour(text: str) -> tuple[Behaviour | None, int | None]:
    """A forced behaviour, or a forced error status."""
    if text.startswith(ERROR_PREFIX):
        status = _numbers(BEHAVIOUR_HEADER, text.removeprefix(ERROR_PREFIX), 1)[0]
        if status in STATUSES:
            return None, status
    elif text in tuple(Behaviour):
        return Behaviour(text), None
    known = ", ".join((*Behaviour, *(f"{ERROR_PREFIX}{status}" for status in STATUSES)))
    raise ForcedValueError(f"{BEHAVIOUR_HEADER}: expected one of {known}; got {text!r}")


def _numbers(header: str, text: str, count: int) -> list[int]:
    """`count` whole numbers >= 0, separated by commas."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != count or not all(part.isascii() and part.isdigit() for part in parts):
        raise ForcedValueError(f"{header}: expected {count} whole numbers >= 0, got {text!r}")
    return [int(part) for part in parts]


def _mishap(scenario: Scenario, point: float, *, streamed: bool) -> tuple[int | None, Behaviour]:
    """The error status or the mishap that `point` (0..1) falls on. Only streams stall and break by themselves."""
    mishaps = scenario.mishaps
    for status, share in mishaps.errors.items():
        if point < share:
            return int(status), Behaviour.PLAIN
        point -= share
    for behaviour, share in ((Behaviour.STALL, mishaps.stall_share), (Behaviour.BREAK, mishaps.break_share)):
        if point < share:
            return None, behaviour if streamed else Behaviour.PLAIN
        point -= share
    return None, Behaviour.PLAIN


def _keep_alives(scenario: Scenario, rng: Random, *, streamed: bool) -> int:
    """How many signs of life an answer begins with: mostly none."""
    share = scenario.keep_alive.stream_share if streamed else scenario.keep_alive.body_share
    chosen, count = rng.random() < share, rng.randint(1, scenario.keep_alive.most)
    return count if chosen else 0


def _thinks(model: Model, wish: Wish, forced: Forced) -> bool:
    if wish.fim:
        return False
    if forced.tokens is not None:
        return forced.tokens.reasoning > 0
    return model.thinking if wish.thinking is None else wish.thinking


def _tokens(model: Model, rng: Random, factor: float, *, thinking: bool) -> Tokens:
    """Drawn counts, the reasoning times a factor. Hits come in whole cache blocks, and there is always something to answer."""
    prompt = max(1, round(_draw(rng, model.prompt_tokens)))
    share = min(1.0, _draw(rng, model.cache_hit_share))
    hit = int(prompt * share) // model.cache_block * model.cache_block
    reasoning, answer = (
        round(factor * _draw(rng, model.reasoning_tokens)),
        max(1, round(_draw(rng, model.answer_tokens))),
    )
    return Tokens(hit=hit, miss=prompt - hit, reasoning=max(1, reasoning) if thinking else 0, answer=answer)


def _limit(tokens: Tokens, wish: Wish, *, thinking: bool) -> tuple[Tokens, str]:
    """Cuts a completion at `max_tokens`, reasoning included; the end-of-thinking token is always generated."""
    limit = wish.max_tokens
    if limit is None or tokens.completion <= limit:
        return tokens, "stop"
    reasoning = min(tokens.reasoning, max(0, limit - 1)) if thinking else 0
    return msgspec.structs.replace(tokens, reasoning=reasoning, answer=max(0, limit - reasoning)), "length"


def _draw(rng: Random, amount: Amount) -> float:
    """A number from a distribution. Always takes one Gaussian, so that what follows is drawn alike."""
    gauss, even = rng.gauss(0.0, 1.0), rng.random()
    if not isinstance(amount, Spread):
        return amount
    if amount.median is None:
        return amount.min + (amount.max - amount.min) * even
    return min(amount.max, max(amount.min, amount.median * math.exp(amount.sigma * gauss)))
