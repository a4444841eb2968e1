"""The reader of chat completions, streamed or not (FIM completions report in the same places).

A typed decoder looks at the few fields that count and skips the rest; prompts and answers are never kept: of a delta
only whether it is empty. The last usage seen wins, wherever it stands; usages are never summed.
DeepSeek puts it on the finish chunk, whose `choices` is not empty (recordings; api-docs.deepseek.com said otherwise).
"""

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.metering.reading import Reading
from proxy.metering.sse import DONE
from proxy.metering.usage_report import read_usage
from proxy.usage import Missing


class _Delta(msgspec.Struct):
    """Pieces of text (or lists of parts): all that is asked of them is whether they are empty."""

    content: Any = None
    reasoning_content: Any = None
    tool_calls: Raw | UnsetType = UNSET


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: Any = None
    finish_reason: str | None = None


class _Completion(msgspec.Struct):
    model: str | None = None
    system_fingerprint: str | None = None
    choices: list[_Choice] | None = None
    usage: Raw | UnsetType = UNSET


class _UsageOnly(msgspec.Struct):
    usage: Raw | UnsetType = UNSET


_NULL: Final = b"null"
_EMPTY: Final = (_NULL, b"[]")


_completion: Final = msgspec.json.Decoder(_Completion)
_usage_only: Final = msgspec.json.Decoder(_UsageOnly)


class ChatReader:
    """Reads the JSON documents of one response, events of a stream or the one body, into a `Reading`."""

    __slots__ = ("reading",)

    def __init__(self) -> None:
        self.reading = Reading()

    def __repr__(self) -> str:
        return f"<ChatReader {self.reading!r}>"

    def read(self, document: bytes) -> None:
        """Take one document. One that cannot be read is noted in the reading; none raises."""
        reading = self.reading
        if document == DONE:
            reading.ended = True
            return
        try:
            seen = _completion.decode(document)
        except UNREADABLE:
            self._read_usage_only(document)
            return
        if seen.model:
            reading.served_model = seen.model
        if seen.system_fingerprint:
            reading.fingerprint = seen.system_fingerprint
        for choice in seen.choices or ():  # in place: this is met for every token of every stream
            if choice.finish_reason:
                reading.finish_reason = choice.finish_reason
            delta = choice.delta
            if delta is None:
                reading.answer_deltas += bool(choice.text)
                continue
            reading.answer_deltas += bool(delta.content)
            reading.reasoning_deltas += bool(delta.reasoning_content)
            if delta.tool_calls is not UNSET:
                reading.tool_deltas += bytes(delta.tool_calls) not in _EMPTY
        if seen.usage is not UNSET:
            self._take_usage(bytes(seen.usage))

    def _take_usage(self, raw: bytes) -> None:
        if raw == _NULL:
            return
        try:
            self.reading.report = read_usage(raw)
            self.reading.fault = None
        except MeteringFaultError as fault:
            self.reading.fault = fault.missing

    def _read_usage_only(self, document: bytes) -> None:
        """A document of an unexpected shape may still carry a usage; one that is no JSON carries none."""
        try:
            seen = _usage_only.decode(document)
        except UNREADABLE:
            self.reading.fault = Missing.BROKEN_USAGE if b'"usage"' in document else Missing.UNREADABLE_BODY
            return
        if seen.usage is not UNSET:
            self._take_usage(bytes(seen.usage))
