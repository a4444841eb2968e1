"""Server-sent events: bytes in, the data of whole events out, wherever the bytes were cut.

Follows the event-stream grammar of the WHATWG HTML standard (section 9.2.6) as far as data goes: LF, CR and CRLF end a
line, one space after `data:` is dropped, several data lines join with LF, comments and other fields are passed over.
Deliberate differences: `[DONE]` is an event by itself and counts as soon as its line is whole, because some clients act on
the line and not on the blank one behind it, and some hosts leave the blank ones out; and `finish` gives out what an unterminated last line holds, because hosts forget the newline.
"""

import re
from typing import Final

from proxy.metering.faults import MeteringFaultError
from proxy.usage import Missing

MAX_EVENT_BYTES: Final = 1024 * 1024
"""Longest event held. The largest real event seen is a tool call of some 20 KiB; above this, metering of the exchange ends."""

DONE: Final = b"[DONE]"
"""The end mark of OpenAI's dialect, DeepSeek's included."""


# One call: between two system calls, as it is met for every chunk, it takes half of what several methods of bytes do.
_whole_event: Final = re.compile(rb"data: (.+)\n\n").fullmatch


class EventSplitter:
    """An incremental reader: `feed` chunks, get the data of the events they completed, then `finish`."""

    __slots__ = ("_after_cr", "_data", "_held_bytes", "_longest", "_parts")

    def __init__(self, longest: int = MAX_EVENT_BYTES) -> None:
        self._longest = longest
        self._parts: list[bytes] = []  # the unfinished line, as it came
        self._data: list[bytes] = []  # the data lines of the unfinished event
        self._held_bytes = 0
        self._after_cr = False

    def __repr__(self) -> str:
        return f"<EventSplitter holding {self._held_bytes} bytes>"

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of every event that `chunk` completes. Raises MeteringFaultError for an event that is too large."""
        # The usual case by far: one whole event of one line, nothing held.
        if not self._held_bytes and not self._after_cr:
            whole = _whole_event(chunk)
            if whole is not None and b"\r" not in chunk and len(chunk) <= self._longest:
                return [whole[1]]
        if self._after_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        if b"\n" not in chunk:
            self._hold(chunk)
            return []
        lines = self._after_held(chunk).split(b"\n")
        rest = lines.pop()
        events: list[bytes] = []
        for line in lines:
            self._take_line(line, events)
        self._hold(rest)
        return events

    def finish(self) -> list[bytes]:
        """The data of the event that the end of the body cut short, if there is one."""
        events: list[bytes] = []
        self._take_line(self._after_held(b""), events)
        self._take_line(b"", events)
        return events

    def _take_line(self, line: bytes, events: list[bytes]) -> None:
        if self._held_bytes + len(line) > self._longest:
            raise MeteringFaultError(Missing.EVENT_TOO_LARGE)
        if line.startswith(b"data:"):
            value = line[6:] if line[5:6] == b" " else line[5:]
            if value == DONE and self._data:  # a host that ends its events with one line feed
                self._dispatch(events)
            self._data.append(value)
            self._held_bytes += len(value) + 1  # an empty line takes room, too
            if value == DONE:
                self._dispatch(events)
        elif not line and self._data:
            self._dispatch(events)

    def _dispatch(self, events: list[bytes]) -> None:
        data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        if data:  # the standard gives out nothing for an event whose data is empty
            events.append(data)
        self._data = []
        self._held_bytes = 0

    def _hold(self, rest: bytes) -> None:
        if rest:
            self._parts.append(rest)
            self._held_bytes += len(rest)
        if self._held_bytes > self._longest:
            raise MeteringFaultError(Missing.EVENT_TOO_LARGE)

    def _after_held(self, chunk: bytes) -> bytes:
        if not self._parts:
            return chunk
        whole = b"".join((*self._parts, chunk))
        self._held_bytes -= sum(map(len, self._parts))
        self._parts = []
        return whole

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        """CR and CRLF as LF; a CRLF that was cut in the middle stays one line end."""
        if self._after_cr and chunk:
            chunk = chunk.removeprefix(b"\n")
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
