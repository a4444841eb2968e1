"""`stream_options.include_usage`, where the operator had it added: into the request, and its extra chunk out of the answer.

Hosts that follow OpenAI's convention report a stream's usage only when asked, in a chunk of its own with no choices. A client
that did not ask shall not get it: some fail on it. What the client said itself, `true` or `false`, is never touched.
"""

import re
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.metering.faults import UNREADABLE
from proxy.metering.sse import MAX_EVENT_BYTES

_ASKED: Final = b'"stream_options":{"include_usage":true}'
_NAME: Final = re.compile(rb'"stream_options"\s*:\s*')
MOST_PLACES: Final = 4
"""How many places are tried that look like the option: one for each decodes the whole body."""

_EVENT_END: Final = re.compile(rb"(?>\r\n|\r|\n){2}")
_LINE: Final = re.compile(rb"[^\r\n]*(?>\r\n|\r|\n)?")
_BOM: Final = b"\xef\xbb\xbf"


class _Body(msgspec.Struct):
    stream: bool | None = None
    stream_options: Raw | UnsetType = UNSET


class _Chunk(msgspec.Struct):
    choices: list[Any] | None = None
    usage: Raw | UnsetType = UNSET


_body: Final = msgspec.json.Decoder(_Body)
_chunk: Final = msgspec.json.Decoder(_Chunk)


def with_include_usage(body: bytes) -> bytes | None:
    """The body of a stream request with the option added, every other byte as it was; None where nothing is to be added.

    That is: no stream is asked for, the client has said something about it, or the body cannot be read for certain.
    """
    try:
        asked = _body.decode(body)
    except UNREADABLE:
        return None
    options = b"" if asked.stream_options is UNSET else bytes(asked.stream_options)
    if not asked.stream or (options and not _is_silent(options)):
        return None
    return _replaced(body, options) if options else _inserted(body)


def _is_silent(options: bytes) -> bool:
    """True for options that are null, or an object without a word about usage (vLLM has `continuous_usage_stats`)."""
    try:
        said = msgspec.json.decode(options)
    except UNREADABLE:
        return False
    return said is None or (isinstance(said, dict) and not any("usage" in name for name in said))


def _inserted(body: bytes) -> bytes:
    brace = body.index(b"{") + 1
    separator = b"" if body[brace:].lstrip().startswith(b"}") else b","
    return body[:brace] + _ASKED + separator + body[brace:]


def _replaced(body: bytes, options: bytes) -> bytes | None:
    """The options with the word in them. The name may also stand in a text: the place is right if the whole still reads right."""
    said = msgspec.json.decode(options) or {}
    new = b'"stream_options":' + msgspec.json.encode({**said, "include_usage": True})
    places = (found for found in _NAME.finditer(body) if body.startswith(options, found.end()))
    wanted = None
    for found in islice(places, MOST_PLACES):
        wanted = wanted or _saying_it(body)
        changed = body[: found.start()] + new + body[found.end() + len(options) :]
        if _decoded(changed) == wanted:
            return changed
    return None


def _saying_it(body: bytes) -> Any:
    """What the body says, and the one word more."""
    before = msgspec.json.decode(body)
    return {**before, "stream_options": {**(before.get("stream_options") or {}), "include_usage": True}}


def _decoded(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except UNREADABLE:
        return None


class UsageChunkFilter:
    """Takes the extra chunk out of a stream: the event with a usage and no choices. Everything else passes, byte for byte.

    An event that is not whole yet is held back until it is, up to the longest that a meter reads; a longer one passes, and
    nothing is looked at any more.
    """

    __slots__ = ("_held", "_held_bytes", "_looking", "_tail", "taken_out")

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._tail = b""  # the last bytes that came, where the end of an event may have begun
        self._looking = True
        self.taken_out = 0

    def __repr__(self) -> str:
        return f"<UsageChunkFilter took {self.taken_out} out, holds {self._held_bytes} bytes>"

    def feed(self, chunk: bytes) -> bytes:
        """What of the stream passes now."""
        if not self._looking:
            return chunk
        self._hold(chunk)
        news, self._tail = self._tail + chunk, (self._tail + chunk)[-3:]
        if self._held_bytes > MAX_EVENT_BYTES:
            self._looking = False
        elif not _EVENT_END.search(news):
            return b""
        whole, at, passed = b"".join(self._held), 0, []
        for end in _EVENT_END.finditer(whole):
            if end.end() == len(whole) and whole.endswith(b"\r"):
                break  # the line feed of this CRLF may be on its way
            passed.append(self._kept(whole[at : end.end()]))
            at = end.end()
        self._held, self._held_bytes = [], 0
        self._hold(whole[at:])
        return b"".join(passed) if self._looking else b"".join([*passed, self.finish()])

    def finish(self) -> bytes:
        """What was still held at the end of the stream and passes."""
        rest = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        return self._kept(rest)

    def _hold(self, piece: bytes) -> None:
        if piece:
            self._held.append(piece)
            self._held_bytes += len(piece)

    def _kept(self, event: bytes) -> bytes:
        """An event; of the extra chunk only the comments that stood in it."""
        lines = [line for line in _LINE.findall(event.removeprefix(_BOM)) if line]
        data = b"\n".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
        if not _is_extra(data):
            return event
        self.taken_out += 1
        if not any(line.startswith(b":") for line in lines):
            return b""
        return b"".join(line for line in lines if line.startswith(b":") or not line.strip())


def _is_extra(data: bytes) -> bool:
    if b'"usage"' not in data:  # nearly always: told without decoding
        return False
    try:
        seen = _chunk.decode(data)
    except UNREADABLE:
        return False
    return seen.choices == [] and seen.usage is not UNSET and bytes(seen.usage).startswith(b"{")
