"""The reader of chat completions, streamed or not, and of FIM completions, which report in the same places.

A typed decoder looks at the few fields that count and skips the rest. The last usage seen wins, wherever it stands; usages
are never summed. DeepSeek puts it on the finish chunk, whose `choices` is not empty (recordings; api-docs.deepseek.com
said otherwise), Azure and OpenRouter in a chunk of its own, SiliconFlow a running one on every chunk, Groq in `x_groq`.
Reasoning comes as `reasoning_content`, or as `reasoning` (OpenRouter, newer vLLM).
"""

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.metering.documents import NULL, apart, fault_of, repaired, text_of, usage_alone
from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.metering.reading import Reading
from proxy.metering.sse import DONE
from proxy.metering.usage_report import read_chat_usage


class _Message(msgspec.Struct):
    """A delta or a whole message. Texts are strings, at some hosts lists of parts."""

    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Raw | UnsetType = UNSET


class _Choice(msgspec.Struct):
    delta: _Message | None = None
    message: _Message | None = None
    text: Any = None
    finish_reason: str | None = None


class _Groq(msgspec.Struct):
    usage: Raw | UnsetType = UNSET


class _Completion(msgspec.Struct):
    model: str | None = None
    system_fingerprint: str | None = None
    choices: list[_Choice] | None = None
    usage: Raw | UnsetType = UNSET
    x_groq: _Groq | None = None


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: Any = None


class _Call(msgspec.Struct):
    index: int | None = None
    function: _Function | None = None


_EMPTY: Final = (NULL, b"[]")

_completion: Final = msgspec.json.Decoder(_Completion)
_calls: Final = msgspec.json.Decoder(list[_Call])


class ChatReader:
    """Reads the JSON documents of one response, events of a stream or the one body, into a `Reading`."""

    __slots__ = ("reading",)

    def __init__(self, reading: Reading) -> None:
        self.reading = reading

    def __repr__(self) -> str:
        return f"<ChatReader {self.reading!r}>"

    # In one piece, because it is met for every token of every stream: between two system calls each further function is code
    # that the processor has to fetch anew (`make bench` measures it there).
    def read(self, document: bytes) -> None:  # noqa: C901 - see above
        """Take one document. One that cannot be read is noted in the reading; none raises."""
        reading = self.reading
        if document == DONE:
            reading.ended = True
            return
        try:
            seen = _completion.decode(document)
        except UNREADABLE:
            self._read_odd(document)
            return
        if seen.model:
            reading.served_model = seen.model
        if seen.system_fingerprint:
            reading.fingerprint = seen.system_fingerprint
        for choice in seen.choices or ():
            if choice.finish_reason:
                reading.finish_reason = choice.finish_reason
            delta = choice.delta
            if delta is None:
                self._take_whole(choice)
                continue
            content, reasoning = delta.content, delta.reasoning_content or delta.reasoning
            if content:
                reading.answer_deltas += 1
                reading.answer.add(content if content.__class__ is str else text_of(content))
            if reasoning:
                reading.reasoning_deltas += 1
                reading.reasoning.add(reasoning if reasoning.__class__ is str else text_of(reasoning))
            if delta.tool_calls is not UNSET:
                reading.tool_deltas += self._take_calls(bytes(delta.tool_calls))
        if seen.usage is not UNSET and (usage := bytes(seen.usage)) != NULL:
            self._take_usage(usage)
        if seen.x_groq is not None and seen.x_groq.usage is not UNSET:
            self._take_usage(bytes(seen.x_groq.usage))

    def _take_whole(self, choice: _Choice) -> None:
        """A whole message, which is no delta, or a piece of a FIM completion, which is one."""
        reading, message = self.reading, choice.message
        if message is None:
            reading.answer_deltas += bool(choice.text)
            reading.answer.add(text_of(choice.text))
            return
        reading.answer.add(text_of(message.content))
        reading.reasoning.add(text_of(message.reasoning_content or message.reasoning))
        if message.tool_calls is not UNSET:
            self._take_calls(bytes(message.tool_calls))

    def _take_calls(self, raw: bytes) -> bool:
        """Whether there are any; what they say is kept as far as it can be read."""
        if raw in _EMPTY:
            return False
        try:
            calls = _calls.decode(raw)
        except UNREADABLE:
            return True
        for place, call in enumerate(calls):
            function = call.function
            if function is not None:
                index = place if call.index is None else call.index
                self.reading.add_call(index, function.name or "", text_of(function.arguments))
        return True

    def _take_usage(self, raw: bytes) -> None:
        if raw == NULL:
            return
        try:
            self.reading.take_report(read_chat_usage(raw))
        except MeteringFaultError as fault:
            self.reading.take_fault(fault.missing, raw)

    def _read_odd(self, document: bytes) -> None:
        """A document of an unexpected shape may still carry a usage, or be several; one that is no JSON carries none."""
        whole = repaired(document)
        if whole is not None:
            self.read(whole)
            return
        try:
            usage = usage_alone(document)
        except UNREADABLE:
            self._read_apart(document)
            return
        if usage is not None:
            self._take_usage(usage)

    def _read_apart(self, document: bytes) -> None:
        parts = list(apart(document))
        if len(parts) > 1:
            for part in parts:
                self.read(part)
        else:
            self.reading.take_fault(fault_of(document))
