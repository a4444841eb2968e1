import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metering.given import cassettes, cuts

from proxy.metering import include_usage
from proxy.metering.include_usage import UsageChunkFilter, with_include_usage
from proxy.metering.sse import MAX_EVENT_BYTES

ASKED = b'"stream_options":{"include_usage":true}'
EXTRA = b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\n'
WORD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"}}],"usage":null}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.mark.parametrize(
    ("body", "changed"),
    [
        (b'{"model":"m","stream":true}', b"{" + ASKED + b',"model":"m","stream":true}'),
        (b'\n { "stream" : true }', b"\n {" + ASKED + b', "stream" : true }'),
        (b'{"stream":true,"stream_options":null}', b'{"stream":true,' + ASKED + b"}"),
        (b'{"stream":true,"stream_options" : {} }', b'{"stream":true,' + ASKED + b" }"),
        (
            b'{"stream":true,"stream_options":{"chunk":1}}',
            b'{"stream":true,"stream_options":{"chunk":1,"include_usage":true}}',
        ),
        (
            b'{"a":"\\"stream_options\\": null","stream":true,"stream_options": null}',
            b'{"a":"\\"stream_options\\": null","stream":true,' + ASKED + b"}",
        ),
    ],
)
def test_the_option_is_added_and_every_other_byte_stays(body, changed):
    """Numbers, blanks, escapes and the order of names are not ours to change."""
    assert changed == with_include_usage(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"stream":true,"stream_options":{"include_usage":false}}',
        b'{"stream":true,"stream_options":{"include_usage":true}}',
        b'{"stream":true,"stream_options":{"include_usage":null}}',
        b'{"stream":false}',
        b'{"model":"m"}',
        b'{"stream":"true"}',
        b'{"stream":true,"stream_options":"yes"}',
        b'{"stream":true,"stream_options":[]}',
        b'{"stream":true,"stream_options":{"continuous_usage_stats":true}}',
        b'\xef\xbb\xbf{"stream":true}',
        b"[]",
        b"",
        b'{"stream":true',
    ],
)
def test_a_clients_own_word_and_what_cannot_be_read_stay(body):
    """`true` and `false` are honoured; a body that is not understood for certain goes on as it came."""
    assert with_include_usage(body) is None


def test_a_body_full_of_the_options_name_is_decoded_a_few_times(monkeypatch):
    """Any client can send one; each decoding holds up every stream of the worker."""
    decoded = []
    monkeypatch.setattr(include_usage, "_decoded", lambda body: decoded.append(len(body)))
    body = b'{"x":[' + b",".join([b'{"stream_options":null}'] * 1000) + b'],"stream":true,"stream_options":null}'

    assert with_include_usage(body) is None
    assert len(decoded) == include_usage.MOST_PLACES


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=14), inner, max_size=3),
    max_leaves=12,
)
names = st.sampled_from(["stream_options", "messages", '"stream_options":null', "include_usage", "x"])


@given(st.dictionaries(names, values, max_size=4), st.sampled_from([None, 1, "\t"]))
def test_a_changed_body_says_the_same_and_the_one_word_more(fields, indent):
    """Whatever stands in it, also the option's name inside texts."""
    before = {**fields, "stream": True}
    changed = with_include_usage(json.dumps(before, indent=indent).encode())
    if changed is None:
        assert before.get("stream_options") is not None
        return
    after = json.loads(changed)

    assert after.pop("stream_options") == {**(before.pop("stream_options", None) or {}), "include_usage": True}
    assert before == after


def passed(pieces):
    taken = UsageChunkFilter()
    return b"".join([*map(taken.feed, pieces), taken.finish()]), taken.taken_out


@pytest.mark.parametrize(
    ("stream", "rest"),
    [
        (WORD + EXTRA + DONE, WORD + DONE),
        (WORD + DONE, WORD + DONE),
        (EXTRA, b""),
        (WORD + EXTRA[:-2], WORD),
        (b"\xef\xbb\xbf" + EXTRA + DONE, DONE),
        (WORD + b": keep-alive\n" + EXTRA + DONE, WORD + b": keep-alive\n\n" + DONE),
        (WORD + b"id: 7\nevent: usage\n" + EXTRA + DONE, WORD + DONE),
        (WORD + b": last words\n" + EXTRA[:-2], WORD + b": last words\n"),
    ],
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"])
def test_the_extra_chunk_is_taken_out_and_nothing_else(stream, rest, line_end):
    """With every line end, in every cut."""
    stream, rest = (text.replace(b"\n", line_end) for text in (stream, rest))
    for pieces in ([stream], [bytes([byte]) for byte in stream], *cuts(stream)):
        assert passed(pieces) == (rest, int(rest != stream))


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"choices":[{"delta":{}}],"usage":{"prompt_tokens":3}}\n\n',
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"choices":[]}\n\n',
        b'data: {"usage":{"prompt_tokens":3}}\n\n',
        b'data: {"choices":[],"usage":3}\n\n',
        b'data: {"choices":[],"usage":{\n\n',
        b'data: "usage" "choices":[]\n\n',
        b'x: {"choices":[],"usage":{}}\n\n',
    ],
)
def test_what_is_not_that_chunk_passes(event):
    """A usage beside choices (DeepSeek), no usage, no choices, or no JSON."""
    assert passed([WORD + event + DONE]) == (WORD + event + DONE, 0)


def test_whole_events_pass_at_once():
    """Only an event that has begun and not ended is held back."""
    taken = UsageChunkFilter()

    assert taken.feed(WORD + WORD[:10]) == WORD
    assert taken.feed(WORD[10:]) == WORD


def test_an_event_without_end_is_not_held_without_end():
    """Beyond the longest event everything passes, also what comes later."""
    long = b"data: " + b"x" * (MAX_EVENT_BYTES + 1)

    assert passed([long, b"y", EXTRA]) == (long + b"y" + EXTRA, 0)


@pytest.mark.parametrize("body", [case[1] for case in cassettes()], ids=[case[0] for case in cassettes()])
def test_of_our_cassettes_only_extra_chunks_are_missing(body):
    """What the filter leaves out of every body we have is a usage without choices, whole."""
    chance = random.Random(len(body))
    for _ in range(20):
        rest, _ = passed([body[:at], body[at:]] if (at := chance.randrange(len(body) + 1)) else [body])
        missing = [event for event in body.split(b"\n\n") if event not in rest]
        assert all(b'"choices":[]' in event.replace(b" ", b"") and b'"usage"' in event for event in missing)


@given(
    st.lists(
        st.sampled_from([b"data:", b"\n", b"\r", b"\r\n", b'{"choices":[],"usage":{}}', b" ", b"x", WORD]), max_size=30
    )
)
def test_a_stream_without_the_chunk_is_never_touched(pieces):
    """Bytes out equal bytes in."""
    stream = b"".join(pieces).replace(b'"usage":{}', b'"usage":0')

    assert passed([stream[at : at + 3] for at in range(0, len(stream), 3)]) == (stream, 0)
