"""What has to hold for every body, however spoilt and however cut: the invariants the fuzzers hunt."""

import random

from fuzz.bodies import pieces
from metering.given import facts

from proxy.metering.calibration import Calibration
from proxy.metering.estimation import count, divided, estimate, needs_division, rough, said_of
from proxy.metering.include_usage import UsageChunkFilter
from proxy.metering.meter import MAX_BODY_BYTES, MOST_OF_AN_EVENT, Meter
from proxy.metering.reading import MAX_CALLS, MAX_TEXT_CHARACTERS
from proxy.metering.sse import MAX_EVENT_BYTES
from proxy.metering.templates import NEWEST
from proxy.metering.usage_report import MAX_TOKENS
from proxy.usage import Api

APIS = (Api.CHAT, Api.FIM, Api.ANTHROPIC, Api.RESPONSES)


class Words:
    """A tokenizer that is quick."""

    def count(self, text: str) -> int:
        return len(text) // 4


def check(chance: random.Random, body: bytes) -> int:
    """Feed a body to everything that looks at bodies; AssertionError, or whatever was raised, where something is wrong.

    Returns how many chunks it took.
    """
    api = chance.choice(APIS)
    cut = list(pieces(chance, body))
    meter = Meter(api)
    for piece in cut:
        meter.feed(piece)
    held = buffered(meter)
    assert held <= most_held(api), f"{held} bytes held"
    reading = meter.finish()
    check_reading(reading)
    check_filter(cut, body)
    if chance.random() < 0.25:
        whole = Meter(api)
        whole.feed(body)
        assert facts(whole.finish()) == facts(reading), "depends on how it is cut"
    return len(cut)


def check_reading(reading) -> None:
    """Counts can be added, texts are bounded, and whatever is estimated from them is possible."""
    report = reading.report
    if report is not None:
        assert all(0 <= tokens <= 3 * MAX_TOKENS for _, tokens in report.usage.by_kind())
    for text in (reading.reasoning, reading.answer, *(call.arguments for call in reading.calls.values())):
        assert len(text.kept) <= min(MAX_TEXT_CHARACTERS, text.characters)
    assert len(reading.calls) <= MAX_CALLS
    counted = count(Words(), said_of(reading), b"", NEWEST, hidden=True)
    for one in (counted, rough(reading, 100)):
        guessed = estimate(reading, one, one_token_deltas=True)
        assert min(tokens for _, tokens in guessed.usage.by_kind()) >= 0
        assert min(tokens for _, tokens in Calibration().corrected("v", guessed).by_kind()) >= 0
    if needs_division(reading):
        assert divided(report.usage, counted).completion == report.usage.completion


def check_filter(cut: list[bytes], body: bytes) -> None:
    """Bytes out equal bytes in, but for whole events that were taken out."""
    taken = UsageChunkFilter()
    out = b"".join([*map(taken.feed, cut), taken.finish()])
    if taken.taken_out:
        assert len(out) < len(body)
    else:
        assert out == body


def buffered(meter: Meter) -> int:
    """Bytes in the private buffers of a meter and its splitter."""
    events = meter._events
    lines = sum(map(len, events._parts)) + sum(map(len, events._data)) if events else 0
    return len(meter._head) + sum(map(len, meter._body)) + lines


def most_held(api: Api) -> int:
    return max(MAX_BODY_BYTES, MOST_OF_AN_EVENT.get(api, MAX_EVENT_BYTES)) + 40_000
