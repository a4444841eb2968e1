"""What is read of a request: which dialect it speaks, which model it asks for, whether it wants a stream.

Nothing here refuses anything: a body that cannot be read is relayed as it is, with an empty model.
"""

from itertools import pairwise
from typing import Final
from urllib.parse import unquote

import msgspec

from proxy.metering.encoding import decompressor
from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.usage import METERED_APIS, Api, clean_label

_APIS: Final = {
    "chat/completions": Api.CHAT,
    "completions": Api.FIM,
    "responses": Api.RESPONSES,
    "v1/messages": Api.ANTHROPIC,
    "anthropic/messages": Api.ANTHROPIC,
    "converse": Api.CHAT,
    "models": Api.MODELS,
    "user/balance": Api.BALANCE,
    "files": Api.FILES,
}
"""The last of a path, whatever stands before it: `/v1`, `/beta` and `/anthropic` at DeepSeek, a deployment elsewhere."""

_BEFORE_A_MODEL: Final = frozenset({"model", "deployments"})
"""What stands in a path before the name of a model: at Bedrock and at Azure, whose bodies may not name it."""


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
    parts = path.rstrip("/").split("/")
    api = _APIS.get("/".join(parts[-2:])) or _APIS.get(parts[-1])
    if api is None:
        return Api.FILES if "files" in parts[-3:-1] else Api.OTHER
    return Api.OTHER if api in METERED_APIS and method != "POST" else api


def read_request(api: Api, body: bytes, content_encoding: str = "", path: str = "") -> RequestFacts:
    """The facts of a request of a dialect, whose body may be compressed. `path` may name a model that the body does not."""
    if api not in METERED_APIS:
        return RequestFacts(api, body_bytes=len(body))
    plain = plain_body(body, content_encoding)
    model, streamed = _model_and_stream(plain)
    return RequestFacts(api, clean_label(model or model_in_path(path)), streamed, len(plain))


def model_in(body: bytes, content_encoding: str) -> str:
    """The model that a body names whose dialect is not metered (embeddings, a count of tokens); empty where it names none."""
    return clean_label(_model_alone(plain_body(body, content_encoding))) if body else ""


def model_in_path(path: str) -> str:
    """The model that a path names; empty where it names none."""
    parts = path.split("/")
    named = (after for before, after in pairwise(parts[:-1]) if before in _BEFORE_A_MODEL)
    return unquote(next(named, ""))


def plain_body(body: bytes, content_encoding: str) -> bytes:
    """The body as text; as it came where it cannot be read, or is so large that reading it would hold others up."""
    if not content_encoding:
        return body
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
