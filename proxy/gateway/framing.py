"""How a message is put on the wire: head and framing as bytes, from plain values. Pure.

What comes from the other side (target, reason, header lines) goes in literally. One thing is checked, here for the first
line and in `headers` for the rest: that no line end stands where none belongs, so that nobody can smuggle a line in.
"""

from enum import Enum
from typing import Final

LAST_CHUNK: Final = b"0\r\n\r\n"
_HTTP_1_1: Final = (1, 1)


class Framing(Enum):
    """How the end of a body is told (RFC 9112, section 6)."""

    NONE = "no body at all"
    LENGTH = "by its content-length"
    CHUNKED = "by chunks"
    CLOSE = "by the end of the connection"


_HTTP_1_0: Final = (1, 0)


class LineBreakError(ValueError):
    """Something that goes into a head holds a line end or a NUL."""


def objection(version: tuple[int, int], method: str, target: str, transfer_encoding: str | None) -> str:
    """What speaks against relaying a request, in a sentence; empty where nothing does.

    What two readers could take for different requests is not passed on: a target that is not a path of the upstream's, and
    a body framed in a way that we would have to take off (RFC 9112, sections 3.2 and 6.1). The parser has refused the rest.
    """
    if not _HTTP_1_0 <= version <= _HTTP_1_1:
        return "The request has to be HTTP/1.1 or HTTP/1.0."
    if not target.startswith("/") or method == "CONNECT":
        return "The request target has to be a path."
    if "#" in target:  # some end the path there, others go on: what was looked at would not be what is asked for
        return "A request target has no fragment; write # as %23."
    if transfer_encoding is not None and (version != _HTTP_1_1 or transfer_encoding.strip().lower() != "chunked"):
        return "The only transfer encoding is chunked, and HTTP/1.1 has it."
    return ""


def request_head(method: str, target: str, host: bytes, headers: bytes, *, chunked: bool, close: bool) -> bytes:
    """The head of a request to the upstream. Raises LineBreakError."""
    line = _line(f"{method} {target} HTTP/1.1\r\n")
    framing = b"Transfer-Encoding: chunked\r\n" if chunked else b""
    connection = b"Connection: close\r\n" if close else b""
    return b"%b%b%b%b%b\r\n" % (line, host, headers, framing, connection)


def response_head(
    version: tuple[int, int], status: int, reason: str, headers: bytes, framing: Framing, *, keep_alive: bool
) -> bytes:
    """The head of a response to a client that speaks HTTP `version`. Raises LineBreakError."""
    line = _line(f"HTTP/{version[0]}.{version[1]} {status} {reason}\r\n")
    chunked = b"Transfer-Encoding: chunked\r\n" if framing is Framing.CHUNKED else b""
    connection = b""
    if not keep_alive and version >= _HTTP_1_1:
        connection = b"Connection: close\r\n"
    elif keep_alive and version < _HTTP_1_1:
        connection = b"Connection: keep-alive\r\n"
    return b"%b%b%b%b\r\n" % (line, headers, chunked, connection)


def response_framing(version: tuple[int, int], method: str, status: int, *, has_length: bool) -> Framing:
    """How a response to a client is framed: as the upstream did where that can be, else in chunks, else by the close."""
    if method == "HEAD" or status in (204, 304) or 100 <= status < 200:
        return Framing.NONE
    if has_length:
        return Framing.LENGTH
    return Framing.CHUNKED if version >= _HTTP_1_1 else Framing.CLOSE


def chunk(data: bytes) -> bytes:
    """A piece of a body as one chunk; an empty one would be the last."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole_lines(block: bytes, lines: int) -> bytes:
    """The block, if it is so many lines and every CR, LF and NUL in it is part of a line end. Raises LineBreakError."""
    if block.count(b"\n") != lines or block.count(b"\r") != lines or b"\0" in block:
        raise LineBreakError("a line end where none belongs")
    return block


def _line(text: str) -> bytes:
    return whole_lines(text.encode("utf-8", "surrogateescape"), 1)
