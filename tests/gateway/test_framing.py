"""Heads and framing as bytes: what stands on the wire, and that nothing can be smuggled in."""

import pytest

from proxy.gateway.framing import Framing, LineBreakError, chunk, request_head, response_framing, response_head

HTTP_1_0, HTTP_1_1 = (1, 0), (1, 1)


def test_a_request_head_is_what_it_was_given():
    """Target and headers literally, Host first, framing and connection behind."""
    head = request_head("POST", "/v1//x?", b"Host: h:1\r\n", b"A: 1\r\n", chunked=False, close=False)
    framed = request_head("PUT", "/", b"Host: h\r\n", b"", chunked=True, close=True)

    assert head == b"POST /v1//x? HTTP/1.1\r\nHost: h:1\r\nA: 1\r\n\r\n"
    assert framed == b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "method", "status", "has_length", "framing"),
    [
        (HTTP_1_1, "POST", 200, True, Framing.LENGTH),
        (HTTP_1_1, "POST", 200, False, Framing.CHUNKED),
        (HTTP_1_0, "POST", 200, True, Framing.LENGTH),
        (HTTP_1_0, "POST", 200, False, Framing.CLOSE),
        (HTTP_1_1, "HEAD", 200, True, Framing.NONE),
        (HTTP_1_1, "GET", 204, False, Framing.NONE),
        (HTTP_1_1, "GET", 304, True, Framing.NONE),
        (HTTP_1_1, "GET", 101, False, Framing.NONE),
    ],
)
def test_a_body_is_framed_as_the_client_can_read_it(version, method, status, has_length, framing):
    """A length stays one; HTTP/1.0 knows no chunks; some answers have no body at all (RFC 9112, 6.3)."""
    assert framing is response_framing(version, method, status, has_length=has_length)


@pytest.mark.parametrize(
    ("version", "keep_alive", "line"),
    [
        (HTTP_1_1, True, b""),
        (HTTP_1_1, False, b"Connection: close\r\n"),
        (HTTP_1_0, True, b"Connection: keep-alive\r\n"),
        (HTTP_1_0, False, b""),
    ],
)
def test_the_connection_is_said_only_where_it_is_not_the_rule(version, keep_alive, line):
    """HTTP/1.1 goes on and HTTP/1.0 ends, unless a header says otherwise."""
    head = response_head(version, 200, "Fine by me", b"A: 1\r\n", Framing.LENGTH, keep_alive=keep_alive)

    assert head == b"HTTP/1.%d 200 Fine by me\r\nA: 1\r\n" % version[1] + line + b"\r\n"


def test_chunks_are_framed():
    """Size in hexadecimal digits, as RFC 9112, 7.1 has it."""
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"


@pytest.mark.parametrize("odd", ["a\r\nX: 1", "a\n", "a\r", "a\0"])
def test_no_line_can_be_smuggled_into_a_head(odd):
    """Neither with a target nor with a reason."""
    with pytest.raises(LineBreakError):
        request_head("GET", f"/{odd}", b"Host: h\r\n", b"", chunked=False, close=False)
    with pytest.raises(LineBreakError):
        response_head(HTTP_1_1, 200, odd, b"", Framing.NONE, keep_alive=True)
