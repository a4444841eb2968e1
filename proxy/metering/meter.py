"""Watches one response: `feed` its chunks as they pass, `finish` at its end, get a `Reading`.

Rule 1: a meter only looks. It keeps no more than one unfinished event, or one JSON body up to a cap.
Rule 2: where the bytes are cut makes no difference.
Rule 3: what it cannot read ends the metering of this exchange with a reason in the reading, and never raises.
The form is told by the first byte that is not blank, not by the content type: DeepSeek sends JSON errors as
octet-stream, and a stream request may be answered with JSON. Blank lines before either are its keep-alive.
"""

from typing import Final

from proxy.metering.encoding import Decompressor, decompressor
from proxy.metering.faults import MeteringFaultError
from proxy.metering.readers import Reader, reader_for
from proxy.metering.reading import Reading
from proxy.metering.sse import MAX_EVENT_BYTES, EventSplitter
from proxy.usage import Api, Missing

MAX_BODY_BYTES: Final = 16 * 1024 * 1024
"""Longest JSON body held. The longest answer the API gives, 384K tokens, is about 2 MB of text."""

MOST_OF_AN_EVENT: Final = {Api.RESPONSES: 8 * 1024 * 1024}
"""The last event of a Responses stream repeats the whole answer; the events of other dialects are short."""

_BOM: Final = b"\xef\xbb\xbf"
_BLANK: Final = b" \t\r\n"
_STREAM_FIELDS: Final = (b":", b"data:", b"event:", b"id:", b"retry:")
"""How a line of an event stream begins: a comment, or one of the standard's four fields."""


class Meter:
    """An incremental, bounded reader of one response body."""

    __slots__ = (
        "_api",
        "_body",
        "_body_bytes",
        "_decompressor",
        "_events",
        "_fault",
        "_head",
        "_is_json",
        "_reader",
        "_reading",
    )

    def __init__(self, api: Api, content_encoding: str = "") -> None:
        self._api = api
        self._reading = Reading()
        self._reader: Reader | None = None
        self._events: EventSplitter | None = None
        self._is_json = False
        self._head = b""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._fault: Missing | None = None
        self._decompressor: Decompressor | None = None
        self._prepare(content_encoding)

    def __repr__(self) -> str:
        return f"<Meter {self._reading!r} fault={self._fault}>"

    @property
    def ended(self) -> bool:
        """True once the stream's own end mark went by."""
        return self._reading.ended

    @property
    def reported_late(self) -> bool:
        """True if a usage came behind the end mark; it is not in the reading."""
        return self._reading.reported_late

    @property
    def gave_up(self) -> bool:
        """True once it looks at nothing more."""
        return self._fault is not None

    @property
    def output_deltas(self) -> int:
        """Pieces of output seen so far."""
        reading = self._reading
        return reading.reasoning_deltas + reading.answer_deltas + reading.tool_deltas

    def feed(self, chunk: bytes) -> None:
        """Look at the next piece of the body."""
        if self._fault is not None:
            return
        try:
            if self._events is not None and self._decompressor is None:  # nearly always: no detour
                for event in self._events.feed(chunk):
                    (self._reader or self._chosen(event)).read(event)
            else:
                self._take(chunk)
        except MeteringFaultError as fault:
            self._give_up(fault.missing)

    def finish(self) -> Reading:
        """All that was seen; to be called once, at the end of the body, however it ended."""
        if self._fault is None:
            try:
                self._take_rest()
            except MeteringFaultError as fault:
                self._give_up(fault.missing)
        reading = self._reading
        reading.streamed = self._events is not None
        if self._fault is not None and reading.report is None:
            reading.fault = self._fault
        return reading

    def give_up(self, missing: Missing) -> None:
        """Stop looking, for a reason found outside."""
        self._give_up(missing)

    def _prepare(self, content_encoding: str) -> None:
        try:
            self._decompressor = decompressor(content_encoding)
        except MeteringFaultError as fault:
            self._give_up(fault.missing)

    def _chosen(self, first_document: bytes) -> Reader:
        """The reader: the first document says which dialect this is."""
        self._reader = reader_for(self._api, first_document, self._reading)
        return self._reader

    def _take(self, chunk: bytes) -> None:
        if self._decompressor is not None:
            for piece in self._decompressor.feed(chunk):
                self._take_plain(piece)
        else:
            self._take_plain(chunk)

    def _take_plain(self, chunk: bytes) -> None:
        if self._events is not None:
            for event in self._events.feed(chunk):
                (self._reader or self._chosen(event)).read(event)
        elif self._is_json:
            self._hold(chunk)
        else:
            self._take_head(chunk)

    def _take_head(self, chunk: bytes) -> None:
        """Decide the form by the first bytes that say something; what came so far is then read."""
        self._head = (self._head + chunk).lstrip(_BLANK)
        start = self._head.removeprefix(_BOM).lstrip(_BLANK)
        if _BOM.startswith(self._head) or any(field.startswith(start) for field in _STREAM_FIELDS):
            self._head = self._head if start else self._head[: len(_BOM)]  # blanks behind the mark are not kept
            return
        self._head = b""
        self._is_json = start.startswith((b"{", b"["))
        if not self._is_json:
            if not start.startswith(_STREAM_FIELDS):
                raise MeteringFaultError(Missing.UNREADABLE_BODY)
            self._events = EventSplitter(MOST_OF_AN_EVENT.get(self._api, MAX_EVENT_BYTES))
        self._take_plain(start)

    def _hold(self, chunk: bytes) -> None:
        self._body.append(chunk)
        self._body_bytes += len(chunk)
        if self._body_bytes > MAX_BODY_BYTES:
            raise MeteringFaultError(Missing.BODY_TOO_LARGE)

    def _take_rest(self) -> None:
        if self._is_json:
            body = b"".join(self._body)
            (self._reader or self._chosen(body)).read(body)
            self._body = []
        elif self._events is not None:
            for event in self._events.finish():
                (self._reader or self._chosen(event)).read(event)
        elif self._head.removeprefix(_BOM).strip(_BLANK) and not _BOM.startswith(self._head):
            raise MeteringFaultError(Missing.UNREADABLE_BODY)

    def _give_up(self, missing: Missing) -> None:
        self._fault = missing
        self._body = []
        self._head = b""
