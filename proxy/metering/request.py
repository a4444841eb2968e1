"""What is read of a request: which dialect it speaks, which model it asks for, whether it wants a stream.

Nothing here refuses anything: a body that cannot be read is relayed as it is, with an empty model.
"""

from typing import Final

import msgspec

from proxy.metering.encoding import decompressor
from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.usage import METERED_APIS, Api, clean_label

# DeepSeek's paths (api-docs.deepseek.com). `/v1` and `/beta` are prefixes without a meaning for metering.
_PREFIXES: Final = ("/v1", "/beta")
_APIS: Final = {
    "/chat/completions": Api.CHAT,
    "/completions": Api.FIM,
    "/responses": Api.RESPONSES,
    "/models": Api.MODELS,
    "/user/balance": Api.BALANCE,
    "/files": Api.FILES,
    "/anthropic/v1/messages": Api.ANTHROPIC,
    "/anthropic/messages": Api.ANTHROPIC,
}


MAX_PLAIN_BYTES: Final = 8 * 1024 * 1024
"""Longest compressed request that is read, in plain bytes: some 30 ms of work. A larger one is relayed without a model."""


class RequestFacts(msgspec.Struct, frozen=True):
    """The few things of a request's body that the record keeps. `body_bytes` is its size, plain where we could read it."""

    api: Api
    model: str = ""
    streamed: bool = False
    body_bytes: int = 0


class _Body(msgspec.Struct):
    model: str = ""
    stream: bool | None = None


class _ModelOnly(msgspec.Struct):
    model: str = ""


_body_decoder: Final = msgspec.json.Decoder(_Body)
_model_decoder: Final = msgspec.json.Decoder(_ModelOnly)


def api_of(method: str, path: str) -> Api:
    """The dialect of a request by its path (query already taken off). Only POST asks a model for something."""
    for prefix in _PREFIXES:
        if path.startswith(prefix + "/"):
            path = path[len(prefix) :]
    api = _APIS.get(path.rstrip("/") or "/")
    if api is None:
        return Api.FILES if path.startswith("/files/") else Api.OTHER
    return Api.OTHER if api in METERED_APIS and method != "POST" else api


def read_request(api: Api, body: bytes, content_encoding: str = "") -> RequestFacts:
    """The facts of a request of a dialect, whose body may be compressed."""
    if api not in METERED_APIS:
        return RequestFacts(api, body_bytes=len(body))
    plain = _plain(body, content_encoding) if content_encoding else body
    model, streamed = _model_and_stream(plain)
    return RequestFacts(api, clean_label(model), streamed, len(plain))


def _plain(body: bytes, content_encoding: str) -> bytes:
    """The body as text; as it came where it cannot be read, or is so large that reading it would hold others up."""
    pieces: list[bytes] = []
    size = 0
    try:
        reader = decompressor(content_encoding)
        for piece in (body,) if reader is None else reader.feed(body):
            pieces.append(piece)
            size += len(piece)
            if reader is not None and size > MAX_PLAIN_BYTES:
                return body
    except MeteringFaultError:
        return body
    return b"".join(pieces)


def _model_and_stream(body: bytes) -> tuple[str, bool]:
    try:
        seen = _body_decoder.decode(body)
    except UNREADABLE:
        return _model_alone(body), False
    return seen.model, bool(seen.stream)


def _model_alone(body: bytes) -> str:
    """The model of a body whose `stream` is of an odd kind: the upstream decides what it makes of that."""
    try:
        return _model_decoder.decode(body).model
    except UNREADABLE:
        return ""
