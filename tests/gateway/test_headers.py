import pytest

from proxy.gateway.framing import LineBreakError
from proxy.gateway.headers import MAX_KNOWN_NAMES, Passing, label_of, purpose_of
from proxy.usage import LABEL_CHARACTERS, Purpose

HOP_BY_HOP = [
    ("Connection", "keep-alive"),
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Authenticate", "Basic"),
    ("Proxy-Authorization", "Basic eA=="),
    ("Proxy-Connection", "close"),
    ("TE", "trailers"),
    ("Trailer", "Expires"),
    ("Transfer-Encoding", "chunked"),
    ("Upgrade", "h2c"),
]
PASSING = [
    ("Authorization", "Bearer sk-1"),
    ("x-api-key", "sk-1"),
    ("X-Custom", "b"),
    ("x-custom", "a"),
    ("Cookie", "a=1"),
    ("Set-Cookie", "a=1"),
    ("Set-Cookie", "b=2"),
    ("CONTENT-LENGTH", "12"),
    ("Content-Type", "application/json"),
    ("Content-Encoding", "gzip"),
    ("Accept-Encoding", "br"),
    ("X-Metering", "not ours"),
    ("Empty", ""),
]


def raw(pairs):
    """The headers as they stand on the wire."""
    return [
        (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape")) for name, value in pairs
    ]


def pairs_of(block):
    """Header lines as pairs again."""
    lines = block.decode("utf-8", "surrogateescape").split("\r\n")
    assert lines.pop() == ""
    return [tuple(line.split(": ", 1)) for line in lines]


def request_headers(pairs):
    return pairs_of(Passing().of_request(raw(pairs)))


def response_headers(pairs):
    return pairs_of(Passing().of_response(raw(pairs)))


BOTH = [request_headers, response_headers]


@pytest.mark.parametrize("pass_on", BOTH)
def test_headers_pass_in_their_order_and_spelling(pass_on):
    """Repeated names, odd cases, empty values: what is not ours to take off goes on literally."""
    assert pass_on(PASSING) == PASSING


@pytest.mark.parametrize("pass_on", BOTH)
@pytest.mark.parametrize("pair", HOP_BY_HOP)
@pytest.mark.parametrize("spelt", [str, str.lower, str.upper])
def test_a_hop_by_hop_header_ends_here(pass_on, pair, spelt):
    """In any spelling, wherever it stands; the others keep their order."""
    name, value = pair

    assert pass_on([*PASSING[:5], (spelt(name), value), *PASSING[5:]]) == PASSING


@pytest.mark.parametrize("pass_on", BOTH)
def test_what_connection_names_ends_here(pass_on):
    """Also several names, in several Connection headers, spelt differently."""
    named = [
        ("connection", "close, X-Mine"),
        ("Connection", " x-other ,,"),
        ("x-mine", "1"),
        ("X-Other", "2"),
        ("X-Kept", "3"),
    ]

    assert pass_on(named) == [("X-Kept", "3")]


@pytest.mark.parametrize("pass_on", BOTH)
def test_a_length_stays_whatever_connection_says(pass_on):
    """A body's length is not for one hop: without it the end of the body could not be told."""
    pairs = [("Connection", "Content-Length"), ("Content-Length", "5")]

    assert pass_on(pairs) == pairs[1:]


@pytest.mark.parametrize("pass_on", BOTH)
@pytest.mark.parametrize("name", ["X-Meter-App", "x-meter-purpose", "X-METER-EXPECT-VERSION", "X-Meter-Unheard-Of"])
def test_our_own_headers_end_here(pass_on, name):
    """Nobody beyond the proxy sees them, and none from beyond is taken for ours."""
    assert pass_on([(name, "x"), *PASSING]) == PASSING


def test_host_and_expect_are_of_the_request_only():
    """Host names us, Expect was answered by us; in a response both would be the upstream's."""
    pairs = [("Host", "proxy:8400"), ("Expect", "100-continue")]

    assert (request_headers(pairs), response_headers(pairs)) == ([], pairs)


@pytest.mark.parametrize("pass_on", BOTH)
def test_bytes_that_are_no_text_survive(pass_on):
    """A value or a name of odd bytes goes on as those bytes."""
    pairs = [("X-Odd", "caf\udce9"), ("X-\udcff", "1"), ("X-Utf8", "船")]

    assert pass_on(pairs) == pairs


def test_what_was_decided_once_holds_again():
    """One picker serves every exchange: the second answer is the first, in both directions, which do not mix."""
    passing, pairs = (
        Passing(),
        [("Host", "here"), ("X-Meter-App", "a"), ("Connection", "X-Mine"), ("X-Mine", "1"), ("X", "2")],
    )

    for _ in range(2):
        assert passing.of_request(raw(pairs)) == b"X: 2\r\n"
        assert passing.of_response(raw(pairs)) == b"Host: here\r\nX: 2\r\n"
        assert passing.of_request(raw([("X-Mine", "1")])) == b"X-Mine: 1\r\n"


@pytest.mark.parametrize("value", ["a\r\nX-Smuggled: 1", "a\nb", "a\rb", "a\0b"])
@pytest.mark.parametrize("pass_on", BOTH)
def test_a_line_break_inside_a_header_is_refused(pass_on, value):
    """The parser lets none through; should it ever, nothing goes on."""
    with pytest.raises(LineBreakError):
        pass_on([("X-A", value)])


def test_a_client_that_invents_names_fills_no_memory():
    """Beyond a bound nothing more is remembered, and everything is still decided rightly."""
    passing = Passing()
    pairs = [(f"X-{number}", "1") for number in range(3 * MAX_KNOWN_NAMES)]

    assert pairs_of(passing.of_request(raw([*pairs, ("Upgrade", "h2c"), ("X-Meter-App", "a")]))) == pairs
    assert len(passing._request_names) <= MAX_KNOWN_NAMES


@pytest.mark.parametrize(
    ("value", "purpose"),
    [
        (None, Purpose.PRODUCTION),
        ("", Purpose.PRODUCTION),
        ("production", Purpose.PRODUCTION),
        ("validation", Purpose.VALIDATION),
        (" Shadow ", Purpose.SHADOW),
        ("validaton", Purpose.PRODUCTION),
        ("\udcff", Purpose.PRODUCTION),
    ],
)
def test_a_purpose_that_is_none_counts_as_production(value, purpose):
    """A misspelt purpose must not hide spend."""
    assert purpose is purpose_of(value)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (None, ""),
        ("  ", ""),
        (" team a ", "team a"),
        ("a\tb", "a?b"),
        ("\udcff", "?"),
        ("x" * 500, "x" * LABEL_CHARACTERS),
    ],
)
def test_a_label_a_client_states_is_fit_to_be_shown(value, label):
    """Trimmed, cut and cleaned; never refused."""
    assert label == label_of(value)
