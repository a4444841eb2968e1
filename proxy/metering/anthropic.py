"""The reader of Anthropic messages, streamed or not, as DeepSeek's `/anthropic` endpoint and others send them.

A stream says its usage twice: `message_start` has the input, `message_delta` the output so far, and at DeepSeek the input
again. Both are put together: hosts were seen that leave out, or put 0 for, what they have said before. Until a `message_delta` came, the output is not reported. Reasoning is not counted apart by anybody;
its text goes by in `thinking` blocks. `message_stop` is the end.
"""

from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.metering.documents import NULL, fault_of, index_of, repaired, text_of
from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.metering.reading import Reading
from proxy.metering.usage_report import AnthropicUsage, anthropic_report, decode_anthropic_usage, whole


class _Block(msgspec.Struct):
    """A block of content, or a delta of one: each kind has its text in a field of its own."""

    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    name: Any = None
    input: Raw | UnsetType = UNSET
    stop_reason: Any = None


class _Message(msgspec.Struct):
    model: Any = None
    stop_reason: Any = None
    usage: Raw | UnsetType = UNSET
    content: Raw | UnsetType = UNSET


class _Document(msgspec.Struct):
    """An event of a stream, or a whole message."""

    type: Any = None
    index: Any = None
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Block | None = None
    model: Any = None
    stop_reason: Any = None
    content: Raw | UnsetType = UNSET
    usage: Raw | UnsetType = UNSET


_document: Final = msgspec.json.Decoder(_Document)
_blocks: Final = msgspec.json.Decoder(list[_Block])
_FIELDS: Final = AnthropicUsage.__struct_fields__


class AnthropicReader:
    """Reads the JSON documents of one response, events of a stream or the one body, into a `Reading`."""

    __slots__ = ("_usage", "reading")

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self._usage = AnthropicUsage()

    def __repr__(self) -> str:
        return f"<AnthropicReader {self.reading!r}>"

    def read(self, document: bytes) -> None:
        """Take one document. One that cannot be read is noted in the reading; none raises."""
        try:
            seen = _document.decode(document)
        except UNREADABLE:
            if (mended := repaired(document)) is not None:
                self.read(mended)
            else:
                self.reading.take_fault(fault_of(document))
            return
        if seen.message is not None:
            self._take_head(seen.message)
        self._take_name(seen.model, seen.stop_reason)
        if seen.content_block is not None:
            self._take_block(index_of(seen.index), seen.content_block, 1)
        if seen.delta is not None:
            self._take_name(None, seen.delta.stop_reason)
            self._take_block(index_of(seen.index), seen.delta, 1)
        if seen.content is not UNSET:
            self._take_blocks(bytes(seen.content))
        if seen.usage is not UNSET:
            self._take_usage(bytes(seen.usage), final=True)
        if seen.type == "message_stop":
            self.reading.ended = True

    def _take_head(self, message: _Message) -> None:
        """What `message_start` says. Its usage is a first one: the output in it is none yet."""
        self._take_name(message.model, message.stop_reason)
        if message.content is not UNSET:
            self._take_blocks(bytes(message.content))
        if message.usage is not UNSET:
            self._take_usage(bytes(message.usage), final=False)

    def _take_name(self, model: Any, stop_reason: Any) -> None:
        self.reading.served_model = text_of(model) or self.reading.served_model
        self.reading.finish_reason = text_of(stop_reason) or self.reading.finish_reason

    def _take_blocks(self, raw: bytes) -> None:
        try:
            blocks = _blocks.decode(raw)
        except UNREADABLE:
            return  # `content` of another kind: nothing to count in it
        for index, block in enumerate(blocks):
            self._take_block(index, block, 0)

    def _take_block(self, index: int, block: _Block, deltas: int) -> None:
        """A block, whole (no delta) or a piece of it (one)."""
        reading = self.reading
        if block.text:
            reading.answer_deltas += deltas
            reading.answer.add(text_of(block.text))
        if block.thinking:
            reading.reasoning_deltas += deltas
            reading.reasoning.add(text_of(block.thinking))
        if block.name or block.partial_json:
            whole = b"" if block.input is UNSET else bytes(block.input)
            arguments = text_of(block.partial_json) or (
                "" if whole in (b"", b"{}") else whole.decode("utf-8", "replace")
            )
            reading.tool_deltas += deltas
            reading.add_call(index, text_of(block.name), arguments)

    def _take_usage(self, raw: bytes, *, final: bool) -> None:
        if raw == NULL:
            return
        try:
            self._usage = _together(self._usage, decode_anthropic_usage(raw))
            if final:
                self.reading.take_report(anthropic_report(self._usage, raw))
            elif self._usage.input_tokens is not None:
                so_far = anthropic_report(AnthropicUsage(self._usage.input_tokens, 0, *_cache(self._usage)), raw).usage
                self.reading.known_prompt = (so_far.input_cache_hit, so_far.input_cache_miss)
        except MeteringFaultError as fault:
            self.reading.take_fault(fault.missing, raw)


def _cache(usage: AnthropicUsage) -> tuple[Any, Any]:
    return usage.cache_creation_input_tokens, usage.cache_read_input_tokens


def _together(first: AnthropicUsage, later: AnthropicUsage) -> AnthropicUsage:
    """What both say. The input fields belong together: a later split of them replaces the first, unless it is all zeros.

    A later usage that does not split its input (or says nothing of it) is completed field by field, the larger counts.
    """
    splits = any(value is not None for value in _cache(later))
    if splits and any(whole(value) for value in (later.input_tokens, *_cache(later))):
        return AnthropicUsage(later.input_tokens, _larger(first.output_tokens, later.output_tokens), *_cache(later))
    pairs = ((getattr(first, name), getattr(later, name)) for name in _FIELDS)
    return AnthropicUsage(*(_larger(*pair) for pair in pairs))


def _larger(one: Any, other: Any) -> Any:
    """The larger of two counts; what is none gives way to what is one."""
    counts = [value for value in (whole(one), whole(other)) if value is not None]
    return max(counts) if counts else _said(one, other)


def _said(one: Any, other: Any) -> Any:
    return one if other is None else other
