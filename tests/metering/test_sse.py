import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from metering.given import in_pieces, single_bytes

from proxy.metering.faults import MeteringFaultError
from proxy.metering.sse import MAX_EVENT_BYTES, EventSplitter
from proxy.usage import Missing

no_line_end = st.binary(min_size=1, max_size=6).map(lambda text: text.replace(b"\r", b".").replace(b"\n", b"."))
lines = st.one_of(
    st.sampled_from(
        [
            b"",
            b"data: [DONE]",
            b": keep-alive",
            b"event: x",
            b"data:  two spaces",
            b"data : no",
            b" data: no",
            b"data:",
            b"data: ",
        ]
    ),
    no_line_end,
    no_line_end.map(lambda text: b"data:" + text),
    no_line_end.map(lambda text: b"data: " + text),
)
texts = st.lists(st.tuples(lines, st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=12).map(
    lambda pairs: b"".join(part for pair in pairs for part in pair)
)


def events(pieces):
    splitter = EventSplitter()
    found = [event for piece in pieces for event in splitter.feed(piece)]
    return found + splitter.finish()


def by_the_grammar(text):
    """The events of a text, read line by line: the standard's grammar with our differences."""
    found, data = [], []
    for line in [*text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"), b""]:
        if line.startswith(b"data:"):
            value = line[5:].removeprefix(b" ")
            if data and value == b"[DONE]":
                found.append(b"\n".join(data))
                data = []
            data.append(value)
        if data and (not line or data[-1] == b"[DONE]"):
            found.append(b"\n".join(data))
            data = []
    return [event for event in found if event]


@given(text=texts, end=st.sampled_from([b"", b"data: cut sh", b"data: [DONE]"]), places=st.lists(st.integers(0, 200)))
@example(text=b"data:\ndata: x\n\n", end=b"data: [DONE]", places=[])
def test_where_the_bytes_are_cut_makes_no_difference(text, end, places):
    """Any text made of lines gives the events of the grammar: whole, byte by byte, event by event, and in any pieces."""
    body = text + end
    pieces = in_pieces(body, [min(place, len(body)) for place in places])
    expected = by_the_grammar(body)

    assert expected == events([body])
    assert expected == events(single_bytes(body))
    assert expected == events(re.split(rb"(?=data)|(?<=\n\n)", body))
    assert expected == events(pieces)


def test_an_event_is_given_out_as_soon_as_it_is_whole():
    """The blank line completes an event; the mark of the end needs none."""
    splitter = EventSplitter()

    assert splitter.feed(b"data: one\n") == []
    assert splitter.feed(b"\n") == [b"one"]
    assert splitter.feed(b"data: [DONE]") == []
    assert splitter.feed(b"\n") == [b"[DONE]"]
    assert splitter.finish() == []


@pytest.mark.parametrize("text", [b"data:\n\n", b"data: \n\n", b"data\n\n"])
def test_an_event_without_data_is_none(text):
    """The standard gives out nothing for an event whose data is empty."""
    assert events([text]) == []


def test_empty_data_lines_without_end_are_let_go_too():
    """They hold no bytes and take room."""
    with pytest.raises(MeteringFaultError):
        EventSplitter().feed(b"data:\n" * (MAX_EVENT_BYTES + 1))


@pytest.mark.parametrize("line", [b"data: " + b"x" * 1024, b"data: " + b"x" * 1024 + b"\n", b": " + b"x" * 1024])
def test_an_event_that_is_too_large_ends_the_reading(line):
    """An event without an end, in one line or many, is let go at the cap; no more than that was ever held."""
    splitter, most = EventSplitter(), 0

    def feed_without_end():
        nonlocal most
        for _ in range(2 * MAX_EVENT_BYTES // 1024):
            splitter.feed(line)
            most = max(most, held(splitter))

    with pytest.raises(MeteringFaultError) as raised:
        feed_without_end()

    assert raised.value.missing is Missing.EVENT_TOO_LARGE
    assert MAX_EVENT_BYTES - 3072 < most <= MAX_EVENT_BYTES


def test_what_was_given_out_is_not_held():
    """A stream of any length leaves nothing behind but its unfinished event."""
    splitter = EventSplitter()
    for _ in range(3):
        splitter.feed(b"data: " + b"x" * 700_000 + b"\n\ndata: yz")
        splitter.feed(b"\n\n")

    assert held(splitter) == 0


@pytest.mark.parametrize("size", [MAX_EVENT_BYTES - 100, MAX_EVENT_BYTES + 10_000])
def test_the_cap_does_not_depend_on_the_cuts(size):
    """An event is too large, or not, by its own size alone."""
    body = b"data: " + b"x" * size + b"\n\n"

    assert outcome([body]) == outcome([body[at : at + 4096] for at in range(0, len(body), 4096)])


def outcome(pieces):
    try:
        return len(events(pieces))
    except MeteringFaultError as fault:
        return fault.missing


def held(splitter):
    """Bytes in the private buffers."""
    return sum(map(len, splitter._parts)) + sum(map(len, splitter._data))
