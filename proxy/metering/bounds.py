"""What a request's body says about the most it can cost: pure, and read only where a budget wants to know.

Rule: a bound that cannot be told is said to be none (`unbounded_by`), never guessed. What refers to text that is not in the body
(a file, an earlier answer kept by the host, a picture behind a URL), and tools that the host runs by itself, have none.
"""

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from proxy.metering.faults import UNREADABLE

_LIMITS: Final = ("max_completion_tokens", "max_output_tokens", "max_tokens")
_CHOICES: Final = ("n", "best_of")
_ELSEWHERE: Final = frozenset({"file_id", "file_url", "previous_response_id", "conversation", "container"})
_CLIENTS_TOOLS: Final = frozenset({"function", "custom", None})
_MOST: Final = 10**9


class Bounds(msgspec.Struct, frozen=True):
    """`max_tokens` is the most output the request allows for one choice (None: it does not say), `choices` how many it wants.

    `unbounded_by` names what has no bound; empty where everything has one.
    """

    max_tokens: int | None = None
    choices: int = 1
    unbounded_by: str = ""


UNREAD: Final = Bounds(unbounded_by="a body that cannot be read")


def bounds_in(body: bytes) -> Bounds:
    """The bounds in a plain body."""
    try:
        asked = msgspec.json.decode(body)
    except UNREADABLE:
        return UNREAD
    if not isinstance(asked, dict):
        return UNREAD
    limits = [asked[name] for name in _LIMITS if asked.get(name) is not None]
    choices = [asked[name] for name in _CHOICES if asked.get(name) is not None]
    if not all(_is_count(number) for number in (*limits, *choices)):
        return Bounds(unbounded_by="a limit that is no whole number")
    return Bounds(max(limits, default=None), max(1, *choices, 1), next(_unbounded(asked), ""))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST


def _unbounded(asked: dict[str, Any]) -> Iterator[str]:
    tools = asked.get("tools")
    for tool in tools if isinstance(tools, list) else []:
        kind = tool.get("type") if isinstance(tool, dict) else ""
        if kind not in _CLIENTS_TOOLS:
            yield f"the tool {kind!s:.40}, which runs at the upstream"
    yield from _elsewhere(asked)


def _elsewhere(value: Any) -> Iterator[str]:
    """Whatever refers to something outside the body, at any depth; without recursion, since a client decides the depth."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            for key, inner in one.items():
                if key in _ELSEWHERE and inner:
                    yield f"{key}, which refers to text that is not in the body"
                if key in ("url", "image_url") and isinstance(inner, str) and not inner.startswith("data:"):
                    yield "a picture behind a URL"
                waiting.append(inner)
