"""Which reader a response gets: the path says which dialect was asked, its first document which one was answered.

A gateway in between may translate, and a path may be one we do not know; what a document says of itself counts more.
Where it says nothing (an error, a keep-alive in JSON), the path decides.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import msgspec

from proxy.metering.anthropic import AnthropicReader
from proxy.metering.chat import ChatReader
from proxy.metering.converse import ConverseReader
from proxy.metering.faults import UNREADABLE
from proxy.metering.reading import Reading
from proxy.metering.responses import ResponsesReader
from proxy.usage import Api


class Reader(Protocol):
    """Takes the JSON documents of one response, one after the other, and fills a `Reading`."""

    def read(self, document: bytes) -> None:
        """Take one document."""


class _Shape(msgspec.Struct):
    type: Any = None
    object: Any = None
    choices: Any = None
    output: Any = None


_shape: Final = msgspec.json.Decoder(_Shape)

MakeReader = Callable[[Reading], Reader]

_BY_API: Final[Mapping[Api, MakeReader]] = {
    Api.CHAT: ChatReader,
    Api.FIM: ChatReader,
    Api.ANTHROPIC: AnthropicReader,
    Api.RESPONSES: ResponsesReader,
}

_ANTHROPIC_TYPES: Final = ("message", "content_block")


def reader_for(api: Api, first_document: bytes, reading: Reading) -> Reader:
    """The reader for a response to a request of dialect `api`."""
    try:
        shape = _shape.decode(first_document)
    except UNREADABLE:
        return _by_path(api)(reading)
    return (_by_content(shape) or _by_path(api))(reading)


def _by_path(api: Api) -> MakeReader:
    return _BY_API.get(api, ChatReader)


def _by_content(shape: _Shape) -> MakeReader | None:
    kind, name = shape.type, shape.object
    if shape.choices is not None:
        return ChatReader
    if name == "response" or (isinstance(kind, str) and kind.startswith("response.")):
        return ResponsesReader
    if isinstance(kind, str) and kind.startswith(_ANTHROPIC_TYPES):
        return AnthropicReader
    if isinstance(shape.output, dict):
        return ConverseReader
    return None
