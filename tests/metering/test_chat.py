import json

import pytest
from metering.given import read

from proxy.metering.chat import ChatReader
from proxy.metering.reading import Reading
from proxy.usage import Missing


def deltas(*choices):
    reader = ChatReader(Reading())
    for choice in choices:
        reader.read(json.dumps({"choices": [choice]}).encode())
    reading = reader.reading
    return reading.reasoning_deltas, reading.answer_deltas, reading.tool_deltas


@pytest.mark.parametrize(
    ("delta", "counted"),
    [
        ({"content": "a"}, (0, 1, 0)),
        ({"content": " "}, (0, 1, 0)),
        ({"content": ""}, (0, 0, 0)),
        ({"content": None}, (0, 0, 0)),
        ({"reasoning_content": "a", "content": None}, (1, 0, 0)),
        ({"reasoning_content": "", "content": ""}, (0, 0, 0)),
        ({"tool_calls": [{"index": 0}]}, (0, 0, 1)),
        ({"tool_calls": [], "role": "assistant"}, (0, 0, 0)),
        ({"content": "a", "reasoning_content": "b", "tool_calls": [{}]}, (1, 1, 1)),
        ({}, (0, 0, 0)),
    ],
)
def test_of_a_delta_only_whether_it_is_empty_counts(delta, counted):
    """One non-empty piece is one delta of its sort."""
    assert counted == deltas({"delta": delta})


def test_the_last_names_seen_stand():
    """Model, fingerprint and finish reason of the last document that has them; empty ones change nothing."""
    reader = ChatReader(Reading())
    for model, fingerprint, finish in (("a", "f1", None), ("b", "f2", "stop"), ("", None, None)):
        choices = [{"delta": {}, "finish_reason": finish}]
        reader.read(json.dumps({"model": model, "system_fingerprint": fingerprint, "choices": choices}).encode())

    assert (
        reader.reading.served_model,
        reader.reading.fingerprint,
        reader.reading.finish_reason,
    ) == ("b", "f2", "stop")


def test_a_document_behind_the_last_usage_does_not_take_it_away():
    """An unreadable event after the usage leaves the report; before it, the report takes the fault away."""
    usage = b'data: {"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'

    assert read([usage, b"data: {\n\n"])["report"].usage.total == 7
    assert read([b"data: {\n\n", usage])["fault"] is None


def test_an_unreadable_document_is_told_by_whether_it_speaks_of_usage():
    """A spoilt event that names a usage may have held it; another one did not."""
    assert read([b'data: {"usage":{"prompt\n\n'])["fault"] is Missing.BROKEN_USAGE
    assert read([b"data: {what\n\n"])["fault"] is Missing.UNREADABLE_BODY
