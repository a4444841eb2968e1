"""The bytes of everything that is not a chat answer: fill-in-the-middle, models, balance. Pure.

A fill-in-the-middle event has other keys in another order than a chat event (seen in a recording that was cut before
its end). Where its usage stands was never seen; it stands on the last event here, as in chat, after `object`.
"""

from fractions import Fraction

import msgspec

from proxy.simulator.answers import WORDS, Stream, usage_json
from proxy.simulator.plan import Plan

NANOS = 1_000_000_000


def fim_stream(plan: Plan, created: int, *, include_usage: bool) -> Stream:
    """The events of a streamed fill-in-the-middle answer."""
    rest = _fim_rest(plan, created)
    head = b'data: {"id":' + msgspec.json.encode(plan.exchange_id) + b',"choices":[{"text":"'
    tail = b'","index":0,"logprobs":null,"finish_reason":null}]' + rest
    tail += b',"usage":null}\n\n' if include_usage else b"}\n\n"
    words = (WORDS[(plan.offset + position) % len(WORDS)] for position in range(plan.tokens.answer))
    reason = msgspec.json.encode(plan.finish_reason)
    usage = b',"usage":' + usage_json(plan.tokens, thinking=False)
    finish = head + b'","index":0,"logprobs":null,"finish_reason":' + reason + b"}]" + rest + usage + b"}\n\n"
    return Stream(opening=head + tail, deltas=(head + word + tail for word in words), finish=finish)


def fim_body(plan: Plan, created: int) -> bytes:
    """A fill-in-the-middle answer that is not streamed."""
    text = b"".join(WORDS[(plan.offset + position) % len(WORDS)] for position in range(plan.tokens.answer))
    identity, reason = msgspec.json.encode(plan.exchange_id), msgspec.json.encode(plan.finish_reason)
    choice = b'{"text":"' + text + b'","index":0,"logprobs":null,"finish_reason":' + reason + b"}"
    usage = usage_json(plan.tokens, thinking=False)
    return (
        b'{"id":' + identity + b',"choices":[' + choice + b"]" + _fim_rest(plan, created) + b',"usage":' + usage + b"}"
    )


def _fim_rest(plan: Plan, created: int) -> bytes:
    """The fields behind the choices."""
    fingerprint = plan.fingerprint or None
    fields = {"created": created, "model": plan.served, "system_fingerprint": fingerprint, "object": "text_completion"}
    return b"," + msgspec.json.encode(fields)[1:-1]


def models_body(names: tuple[str, ...]) -> bytes:
    """`GET /models`."""
    rows = [{"id": name, "object": "model", "owned_by": "deepseek"} for name in names]
    return msgspec.json.encode({"object": "list", "data": rows})


def balance_body(granted_nanos: int, topped_up_nanos: int) -> bytes:
    """`GET /user/balance`: amounts are strings of USD with two decimals, and an overdrawn account is not available."""
    total = granted_nanos + topped_up_nanos
    row = {
        "currency": "USD",
        "total_balance": _cents(total),
        "granted_balance": _cents(granted_nanos),
        "topped_up_balance": _cents(topped_up_nanos),
    }
    return msgspec.json.encode({"is_available": total > 0, "balance_infos": [row]})


def _cents(nanos: int) -> str:
    cents = round(Fraction(nanos, NANOS // 100))
    sign, cents = ("-" if cents < 0 else ""), abs(cents)
    return f"{sign}{cents // 100}.{cents % 100:02d}"
