"""What is read of a request: which dialect it speaks, which model it asks for, whether it wants a stream.

Nothing here refuses anything: a body that cannot be read is relayed as it is, with an empty model.
"""

from typing import Final

import msgspec

from proxy.metering.faults import UNREADABLE
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


class RequestFacts(msgspec.Struct, frozen=True):
    """The few things of a request's body that the record keeps. `body_bytes` is its size as it came."""

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


def read_request(api: Api, body: bytes) -> RequestFacts:
    """The facts of a request of a dialect."""
    if api not in METERED_APIS:
        return RequestFacts(api, body_bytes=len(body))
    model, streamed = _model_and_stream(body)
    return RequestFacts(api, clean_label(model), streamed, len(body))


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
