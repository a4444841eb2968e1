"""What a request's body says about the most it can cost: pure, and read only where a budget wants to know.

Rule 1: a bound that cannot be told is said to be none (`unbounded_by`), never guessed. What refers to text that is not in the
        body (a file, an earlier answer kept by the host), pictures and sound (whose tokens go by their size on a screen), and
        tools that the host runs by itself, have none.
Rule 2: a limit counts where its dialect knows it. Another one's name may be ignored by the host, and so limits nothing.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from proxy.metering.faults import UNREADABLE
from proxy.usage import Api

_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_LIMIT_OF: Final = {Api.RESPONSES: "max_output_tokens"}
"""The limit that a dialect knows (api-docs.deepseek.com, create-chat-completion, responses_api, anthropic_api); else `max_tokens`."""

_CHOICES: Final = ("n", "best_of")
_ELSEWHERE: Final = ("previous_response_id", "conversation", "container")
_RUN_BY_THE_HOST: Final = ("mcp_servers", "plugins", "search_parameters", "web_search_options")
_FILES: Final = frozenset({"file_id", "file_url"})
_NOT_TEXT: Final = frozenset(
    {"audio", "document", "file", "image", "image_url", "input_audio", "input_file", "input_image", "item_reference"}
    | {"video", "video_url"}
)
_BLOCKS: Final = frozenset({"document", "image", "video"})
"""Bedrock's Converse tells a part by its name: `{"image": {"format": ..., "source": ...}}` (API_runtime_ContentBlock)."""

_CLIENTS_TOOLS: Final = ("function", "custom", None)
_OF_THE_CLIENT: Final = frozenset({"input_schema", "json_schema", "parameters", "schema"})
"""What stands below these is data of the client, which the model reads as text, whatever it is called in there."""

_CALLS: Final = ("tool_use", "function_call")
_MOST: Final = 10**9
_LONGEST_NUMBER: Final = 20
MOST_PARTS: Final = 20_000
MOST_VALUES: Final = 100_000
"""Brackets, and commas, in a body that is read whole: some hundredths of a second. Four megabytes of prose have half as many."""


class Bounds(msgspec.Struct, frozen=True):
    """`max_tokens` is the most output the request allows for one choice (None: it does not say), `choices` how many it wants.

    `unbounded_by` names what has no bound; empty where everything has one.
    """

    max_tokens: int | None = None
    choices: int = 1
    unbounded_by: str = ""


UNREAD: Final = Bounds(unbounded_by="a body that cannot be read")


class _Limits(msgspec.Struct):
    """The limits as they stand; everything else of a body is passed over, which costs hardly anything."""

    max_completion_tokens: msgspec.Raw = msgspec.Raw()
    max_output_tokens: msgspec.Raw = msgspec.Raw()
    max_tokens: msgspec.Raw = msgspec.Raw()
    n: msgspec.Raw = msgspec.Raw()
    best_of: msgspec.Raw = msgspec.Raw()


_limits_decoder: Final = msgspec.json.Decoder(_Limits)


def bounds_in(body: bytes, api: Api = Api.CHAT) -> Bounds:
    """The bounds in a plain body of a dialect; of one with more parts than are looked at only the limits, and no bound.

    Else a client could hold up everybody of its worker with a body of millions of empty lists.
    """
    if body.count(b"[") + body.count(b"{") > MOST_PARTS or body.count(b",") > MOST_VALUES:
        return _limits_alone(body, api)
    try:
        asked = msgspec.json.decode(body)
    except UNREADABLE:
        return UNREAD
    if not isinstance(asked, dict):
        return UNREAD
    found = _bounds_of(asked, api)
    return found if found.unbounded_by else msgspec.structs.replace(found, unbounded_by=next(_unbounded(asked), ""))


def _limits_alone(body: bytes, api: Api) -> Bounds:
    try:
        found = msgspec.structs.asdict(_limits_decoder.decode(body))
        asked = {name: msgspec.json.decode(raw) for name, raw in found.items() if 0 < len(bytes(raw)) < _LONGEST_NUMBER}
    except UNREADABLE:
        return UNREAD
    return msgspec.structs.replace(_bounds_of(asked, api), unbounded_by="a body of more parts than are looked at")


def _bounds_of(asked: dict[str, Any], api: Api) -> Bounds:
    limits = [asked[name] for name in _LIMITS if asked.get(name) is not None]
    choices = [asked[name] for name in _CHOICES if asked.get(name) is not None]
    if not all(_is_count(number) for number in (*limits, *choices)):
        return Bounds(unbounded_by="a limit that is no whole number")
    is_limited = asked.get(_LIMIT_OF.get(api, "max_tokens"))  # some hosts take 0 for a limit that is not set
    most = max(limits) if is_limited else None
    return Bounds(most, max(1, *choices, 1) * _prompts(asked))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _prompts(asked: dict[str, Any]) -> int:
    """A completion may have several prompts, each with its choices; a list of numbers is one, of tokens."""
    prompt = asked.get("prompt")
    if not isinstance(prompt, list) or all(isinstance(one, int) for one in prompt):
        return 1
    return len(prompt)


def _unbounded(asked: dict[str, Any]) -> Iterator[str]:
    tools = asked.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        kind = tool.get("type") if isinstance(tool, dict) else ""
        if kind not in _CLIENTS_TOOLS:
            yield f"the tool {kind!s:.40}, which runs at the upstream"
    yield from (f"{name}, which runs at the upstream" for name in _RUN_BY_THE_HOST if asked.get(name))
    yield from (f"{name}, which refers to text that is not in the body" for name in _ELSEWHERE if asked.get(name))
    if isinstance(asked.get("prompt"), dict):
        yield "a prompt that is kept by the upstream"
    yield from _not_in_the_body(asked)


def _not_in_the_body(asked: dict[str, Any]) -> Iterator[str]:
    """Whatever is more than its text, at any depth; without recursion, since a client decides the depth."""
    waiting: list[Any] = [asked]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            kind = None if one is asked else one.get("type")  # a request is no part of itself, whatever it says
            if isinstance(kind, str) and kind in _NOT_TEXT:
                yield f"a part of type {kind}, whose tokens do not go by its bytes"
            for key, inner in one.items():
                if key in _FILES and inner:
                    yield f"{key}, which refers to text that is not in the body"
                if key == "image_url" and inner:
                    yield "a picture, whose tokens do not go by its bytes"
                if key in _BLOCKS and isinstance(inner, dict) and "source" in inner:
                    yield f"a part named {key}, whose tokens do not go by its bytes"
                if not (key in _OF_THE_CLIENT or (key == "input" and kind in _CALLS)):
                    waiting.append(inner)
