import json

import pytest
from metering.given import recordings

from proxy.metering.estimation import estimate
from proxy.metering.meter import Meter
from proxy.metering.reading import Reading
from proxy.usage import Api, TokenUsage

TEXT = {
    name: (meta["usage"], body)
    for name, meta, body in recordings()
    if meta["host"] == "api.deepseek.com" and meta["streaming"] and meta["endpoint"].endswith("/chat/completions")
    if b'"tool_calls"' not in body
}


@pytest.mark.parametrize("name", TEXT)
def test_deltas_stand_for_tokens_on_deepseeks_own_streams(name):
    """With its usage withheld a text stream is estimated within -1..+3 tokens, its reasoning exactly."""
    usage, body = TEXT[name]
    reported = usage["completion_tokens"]
    thought = (usage.get("completion_tokens_details") or {}).get("reasoning_tokens", 0)
    reading = read_without_usage(body)
    guessed = estimate(reading, body_bytes=0)

    assert reading.report is None
    assert thought == guessed.output_reasoning
    assert reported - guessed.completion in range(-1, 4)


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        ((0, 0, 0), (0, 0)),
        ((0, 6, 0), (0, 6)),
        ((3, 0, 0), (3, 0)),
        ((3, 2, 0), (3, 3)),
        ((3, 0, 2), (3, 3)),
        ((0, 1, 2), (0, 3)),
    ],
)
def test_the_end_of_thinking_is_a_token(deltas, expected):
    """Each delta is a token, and where thinking was followed by something its end is one more."""
    assert TokenUsage(0, 0, *expected) == estimate(reading_of(*deltas), 0)


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (10, 3), (11, 4), (1000, 300)])
def test_the_prompt_is_estimated_by_its_size_and_as_a_miss(size, tokens):
    """Three tokens for ten bytes, rounded up, and none of them taken to be cached."""
    assert TokenUsage(0, tokens, 0, 0) == estimate(reading_of(0, 0, 0), size)


def reading_of(reasoning, answer, tool):
    reading = Reading()
    reading.reasoning_deltas, reading.answer_deltas, reading.tool_deltas = reasoning, answer, tool
    return reading


def read_without_usage(body):
    """What is seen of a stream whose documents had their usage taken out."""
    meter = Meter(Api.CHAT)
    for event in body.split(b"\n\n"):
        document = event.removeprefix(b"data: ")
        if document.startswith(b"{"):
            fields = json.loads(document)
            fields.pop("usage", None)
            event = b"data: " + json.dumps(fields).encode()  # noqa: PLW2901 - the event, rewritten
        meter.feed(event + b"\n\n")
    return meter.finish()
