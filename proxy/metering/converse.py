"""The reader of Bedrock's Converse, not streamed: usage in camel case, the model nowhere but in the URL.

Its streams are AWS's binary event stream, which no reader here takes apart: such an exchange is named unreadable.
"""

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.metering.documents import NULL, fault_of, text_of
from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.metering.reading import Reading
from proxy.metering.usage_report import read_converse_usage


class _ReasoningText(msgspec.Struct):
    text: Any = None


class _Reasoning(msgspec.Struct):
    text: _ReasoningText | None = msgspec.field(default=None, name="reasoningText")


class _Part(msgspec.Struct):
    text: Any = None
    reasoning: _Reasoning | None = msgspec.field(default=None, name="reasoningContent")


class _Message(msgspec.Struct):
    content: list[_Part] | None = None


class _Output(msgspec.Struct):
    message: _Message | None = None


class _Document(msgspec.Struct):
    output: _Output | None = None
    stop_reason: str | None = msgspec.field(default=None, name="stopReason")
    usage: Raw | UnsetType = UNSET


_document: Final = msgspec.json.Decoder(_Document)


class ConverseReader:
    """Reads the one JSON document of a response into a `Reading`."""

    __slots__ = ("reading",)

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def __repr__(self) -> str:
        return f"<ConverseReader {self.reading!r}>"

    def read(self, document: bytes) -> None:
        """Take the document. One that cannot be read is noted in the reading; none raises."""
        try:
            seen = _document.decode(document)
        except UNREADABLE:
            self.reading.take_fault(fault_of(document))
            return
        self.reading.finish_reason = seen.stop_reason or ""
        message = seen.output.message if seen.output else None
        for part in (message.content or ()) if message else ():
            self._take_part(part)
        raw = NULL if seen.usage is UNSET else bytes(seen.usage)
        if raw != NULL:
            self._take_usage(raw)

    def _take_part(self, part: _Part) -> None:
        self.reading.answer.add(text_of(part.text))
        if part.reasoning and part.reasoning.text:
            self.reading.reasoning.add(text_of(part.reasoning.text.text))

    def _take_usage(self, raw: bytes) -> None:
        try:
            self.reading.take_report(read_converse_usage(raw))
        except MeteringFaultError as fault:
            self.reading.take_fault(fault.missing, raw)
