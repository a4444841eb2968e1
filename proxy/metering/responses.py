"""The reader of the Responses API, streamed or not.

A stream's events name themselves by `type`; usage stands only in the last one (`response.completed`, `.incomplete` or
`.failed`), and there is no `[DONE]`. `output_index` keeps tool calls apart. There is no fingerprint in this dialect.
"""

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.metering.documents import NULL, fault_of, index_of, repaired, text_of
from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.metering.reading import Reading
from proxy.metering.sse import DONE
from proxy.metering.usage_report import read_responses_usage

_ENDS: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})
_ANSWERS: Final = frozenset({"response.output_text.delta", "response.refusal.delta"})
_REASONING: Final = frozenset({"response.reasoning_text.delta", "response.reasoning_summary_text.delta"})
_ARGUMENTS: Final = "response.function_call_arguments.delta"
_ITEM: Final = "response.output_item.added"


class _Item(msgspec.Struct):
    """An item of the output: a message, a piece of reasoning, or a call of a function."""

    type: Any = None
    name: Any = None
    arguments: Any = None
    content: Any = None


class _Response(msgspec.Struct):
    model: Any = None
    status: Any = None
    incomplete_details: Any = None
    usage: Raw | UnsetType = UNSET


class _Document(msgspec.Struct):
    """An event of a stream, or (by its `object`) a whole response."""

    type: Any = None
    object: Any = None
    delta: Any = None
    output_index: Any = None
    item: _Item | None = None
    response: _Response | None = None
    output: list[_Item] | None = None


_document: Final = msgspec.json.Decoder(_Document)
_response: Final = msgspec.json.Decoder(_Response)


class ResponsesReader:
    """Reads the JSON documents of one response, events of a stream or the one body, into a `Reading`."""

    __slots__ = ("reading",)

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def __repr__(self) -> str:
        return f"<ResponsesReader {self.reading!r}>"

    def read(self, document: bytes) -> None:
        """Take one document. One that cannot be read is noted in the reading; none raises."""
        if document == DONE:  # not of this dialect, but gateways add it
            self.reading.ended = True
            return
        try:
            seen = _document.decode(document)
            whole = _response.decode(document) if seen.object == "response" else seen.response
        except UNREADABLE:
            if (mended := repaired(document)) is not None:
                self.read(mended)
                return
            self.reading.take_fault(fault_of(document))
            return
        if seen.delta:
            self._take_delta(seen)
        if seen.item is not None and seen.type == _ITEM and seen.item.name:
            self.reading.add_call(index_of(seen.output_index), text_of(seen.item.name), "")
        for index, item in enumerate(seen.output or ()):
            self._take_item(index, item)
        if whole is not None:
            self._take_response(whole)
        if text_of(seen.type) in _ENDS:
            self.reading.ended = True

    def _take_delta(self, seen: _Document) -> None:
        reading, text, kind = self.reading, text_of(seen.delta), text_of(seen.type)
        if kind in _ANSWERS:
            reading.answer_deltas += 1
            reading.answer.add(text)
        elif kind in _REASONING:
            reading.reasoning_deltas += 1
            reading.reasoning.add(text)
        elif kind == _ARGUMENTS:
            reading.tool_deltas += 1
            reading.add_call(index_of(seen.output_index), "", text)

    def _take_item(self, index: int, item: _Item) -> None:
        """An item of a response that was not streamed."""
        reading = self.reading
        if item.type == "function_call":
            reading.add_call(index, text_of(item.name), text_of(item.arguments))
        else:
            (reading.reasoning if item.type == "reasoning" else reading.answer).add(text_of(item.content))

    def _take_response(self, response: _Response) -> None:
        reading, details = self.reading, response.incomplete_details
        reading.served_model = text_of(response.model) or reading.served_model
        finish = text_of(details.get("reason")) if isinstance(details, dict) else ""
        finish = finish or text_of(response.status)
        if finish and finish != "in_progress":
            reading.finish_reason = finish
        raw = NULL if response.usage is UNSET else bytes(response.usage)
        if raw == NULL:
            return
        try:
            reading.take_report(read_responses_usage(raw))
        except MeteringFaultError as fault:
            reading.take_fault(fault.missing, raw)
