"""Compressed bodies: the relay passes them on as they are, and the meter reads a copy.

gzip and deflate come with Python. Others (br, zstd) are not read: the record then says `content_encoding`. DeepSeek
itself was never seen to compress. What comes out is handed on in small pieces and capped, so that a bomb stays small.
"""

import zlib
from collections.abc import Iterator
from typing import Final

from proxy.metering.faults import MeteringFaultError
from proxy.usage import Missing

PIECE_BYTES: Final = 64 * 1024
MAX_PLAIN_BYTES: Final = 256 * 1024 * 1024
"""Twice what the longest stream there is, 384K tokens of one event each, comes to."""

_GZIP_OR_ZLIB: Final = 32 + zlib.MAX_WBITS  # zlib tells the two apart by the header


class Decompressor:
    """An incremental reader of gzip or zlib data."""

    __slots__ = ("_plain_bytes", "_stream")

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        self._plain_bytes = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Plain pieces of at most 64 KiB. Raises MeteringFaultError for data that is damaged or grows too large."""
        while chunk:
            try:
                piece = self._stream.decompress(chunk, PIECE_BYTES)
            except zlib.error as error:
                raise MeteringFaultError(Missing.CONTENT_ENCODING) from error
            chunk = self._stream.unconsumed_tail or self._next_member()
            self._plain_bytes += len(piece)
            if self._plain_bytes > MAX_PLAIN_BYTES:
                raise MeteringFaultError(Missing.BODY_TOO_LARGE)
            if piece:
                yield piece

    def _next_member(self) -> bytes:
        """A gzip body may be several members in a row (RFC 1952, 2.2): the next one begins behind the end of this."""
        rest = self._stream.unused_data
        if self._stream.eof and rest:
            self._stream = zlib.decompressobj(_GZIP_OR_ZLIB)
        return rest


def decompressor(content_encoding: str) -> Decompressor | None:
    """The reader for a Content-Encoding: None for a plain body. Raises MeteringFaultError for one we do not read."""
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return None
    if name in ("gzip", "x-gzip", "deflate"):
        return Decompressor()
    raise MeteringFaultError(Missing.CONTENT_ENCODING)
