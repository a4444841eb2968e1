import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from metering.given import read, read_however_cut

from proxy.metering.meter import MAX_BODY_BYTES, Meter
from proxy.metering.sse import MAX_EVENT_BYTES
from proxy.usage import Api, Missing

USAGE = b'"usage":{"prompt_tokens":3,"completion_tokens":4}'
EVENT = b'data: {"choices":[],' + USAGE + b"}\n\n"
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

fragments = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"\n",
        b"\r",
        b"\r\n",
        b"{",
        b"}",
        b"[",
        b'"usage":',
        b"null",
        b'"choices":[',
        b"\xef\xbb\xbf",
        b'{"delta":{"content":"',
        b'"',
        b":",
        b",",
        b"[DONE]",
        b": keep-alive\n\n",
        USAGE,
        EVENT,
        b'"model":3',
        b"\xff",
        b" ",
    ]
)


@given(
    chunks=st.lists(st.one_of(st.binary(max_size=40), fragments), max_size=30),
    api=st.sampled_from(Api),
    encoding=st.sampled_from(["", "gzip", "deflate", "br", "\udcff"]),
    packed=st.booleans(),
)
@example(chunks=[b"\xef\xbb", b"\xbf"], api=Api.CHAT, encoding="", packed=False)
def test_no_bytes_make_a_meter_raise(chunks, api, encoding, packed):
    """Whatever passes, in whatever chunks: a reading comes out, and a usage in it is made of counts."""
    meter = Meter(api, encoding)
    for chunk in [zlib.compress(b"".join(chunks))] if packed else chunks:
        meter.feed(chunk)
    reading = meter.finish()

    assert reading.report is None or min(count for _, count in reading.report.usage.by_kind()) >= 0


@pytest.mark.parametrize("body", [DEEP, b"data: " + DEEP + b"\n\n", EVENT.replace(b"4}", b'4,"x":' + DEEP + b"}")])
def test_a_document_nested_without_measure_does_not_make_a_meter_raise(body):
    """A document of ten thousand brackets is one that cannot be read, no more."""
    assert read([body])["report"] is None


def test_a_usage_before_a_fault_is_kept():
    """What was reported stays reported when a later event cannot be read."""
    reading = read([EVENT, b"data: {broken\n\n", b"data: " + b"x" * (MAX_EVENT_BYTES + 10)])

    assert reading["report"].usage.total == 7


def test_an_event_too_large_ends_the_metering():
    """The reason stands in the reading, and what comes behind is not looked at."""
    chunks = [b"data: ", *[b"x" * 4096] * (MAX_EVENT_BYTES // 4096 + 1), b"\n\n", EVENT]
    meter, most = Meter(Api.CHAT), 0
    for chunk in chunks:
        meter.feed(chunk)
        most = max(most, held(meter))
    reading = meter.finish()

    assert (reading.report, reading.fault, reading.streamed) == (None, Missing.EVENT_TOO_LARGE, True)
    assert most <= MAX_EVENT_BYTES + 4096


def test_a_body_too_large_ends_the_metering():
    """A JSON body is held up to a cap; beyond it nothing is held."""
    meter, most = Meter(Api.CHAT), 0
    meter.feed(b'{"choices":[],"a":"')
    for _ in range(MAX_BODY_BYTES // 65_536 + 2):
        meter.feed(b"x" * 65_536)
        most = max(most, held(meter))
    reading = meter.finish()

    assert (reading.report, reading.fault, reading.streamed) == (None, Missing.BODY_TOO_LARGE, False)
    assert most <= MAX_BODY_BYTES
    assert held(meter) == 0


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_blank_keep_alives_are_not_held(start):
    """A non-streamed answer may be waited for with blank lines for half an hour; none of them is kept."""
    meter = Meter(Api.CHAT)
    meter.feed(start)
    for _ in range(100):
        meter.feed(b"\r\n" * 100)

    assert held(meter) <= 3


@pytest.mark.parametrize("blanks", [b"\n\n", b" \t\r\n", b"\r\r", b"\xef\xbb\xbf", b"\n\xef\xbb\xbf\n"])
@pytest.mark.parametrize("body", [EVENT, EVENT[6:].rstrip()], ids=["stream", "json"])
def test_blanks_and_a_byte_order_mark_before_a_body_are_passed_over(blanks, body):
    """The form is told by the first byte that says something."""
    assert read_however_cut(blanks + body)["report"].usage.total == 7


@pytest.mark.parametrize("body", [b"", b"\n\n\n", b"\xef\xbb\xbf", b"\xef\xbb", b": keep-alive\n\n"])
def test_a_body_that_says_nothing_reports_nothing(body):
    """Nothing came: no usage, no fault, no end."""
    reading = read_however_cut(body)

    assert (reading["report"], reading["fault"], reading["ended"]) == (None, None, False)


@pytest.mark.parametrize(
    "body", [b"Failed to read the request: no model\n", b"<html><body>busy</body></html>", b"null"]
)
def test_a_body_that_is_neither_a_stream_nor_json_is_unreadable(body):
    """A bare sentence or a page of HTML is named for what it is; it was not streamed."""
    reading = read_however_cut(body)

    assert (reading["fault"], reading["streamed"]) == (Missing.UNREADABLE_BODY, False)


@pytest.mark.parametrize("body", [b'{"choices":[', b"[1,2", b'{"choices":[]} trailing'])
def test_json_that_cannot_be_read_is_unreadable(body):
    """A cut or spoilt JSON body has no usage and says so."""
    assert read_however_cut(body)["fault"] is Missing.UNREADABLE_BODY


def test_giving_up_from_outside_keeps_the_reason():
    """A fault of ours found outside ends the metering with that reason."""
    meter = Meter(Api.CHAT)
    meter.give_up(Missing.METER_FAULT)
    meter.feed(EVENT)

    assert (meter.finish().report, meter.finish().fault) == (None, Missing.METER_FAULT)


def test_the_end_mark_is_seen_as_it_passes():
    """`ended` turns true with the line of the mark, before the blank line behind it."""
    meter = Meter(Api.CHAT)
    seen = [meter.feed(piece) or meter.ended for piece in (EVENT, b"data: [DO", b"NE]", b"\n", b"\n")]

    assert seen == [False, False, False, True, True]


def test_nothing_said_is_shown():
    """A meter's and a reading's text for logs holds names and counts, no word of a prompt or an answer."""
    meter = Meter(Api.CHAT)
    delta = b'{"content":"a secret","tool_calls":[{"function":{"name":"secret","arguments":"secret"}}]}'
    meter.feed(b'data: {"model":"m","choices":[{"delta":' + delta + b'}]}\n\ndata: {"a secret')
    reading = meter.finish()

    assert (reading.answer.kept, reading.calls[0].name) == ("a secret", "secret")
    assert "secret" not in f"{meter!r} {reading!r} {reading.answer!r} {reading.calls!r} {meter._reader!r}"


def held(meter):
    """Bytes in the private buffers of a meter and its splitter."""
    events = meter._events
    lines = sum(map(len, events._parts)) + sum(map(len, events._data)) if events else 0
    return len(meter._head) + sum(map(len, meter._body)) + lines
