"""What a request says, taken apart for counting: turns, tools and the settings that change a prompt. Bytes in, words out.

Runs only for exchanges that are estimated, off the event loop: it decodes the whole body. Bodies of any shape may come;
what is not as the dialect has it is passed over, never an error, because an estimate is better than none.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from proxy.metering.documents import text_of
from proxy.metering.faults import UNREADABLE


class SaidCall(msgspec.Struct, frozen=True):
    """A tool call: name and arguments, the latter as JSON text."""

    name: str
    arguments: str


class Turn(msgspec.Struct, frozen=True):
    """One message of a conversation."""

    role: str
    text: str = ""
    reasoning: str = ""
    calls: tuple[SaidCall, ...] = ()
    images: int = 0


class Prompt(msgspec.Struct, frozen=True):
    """All that goes into a prompt. `thinking` is None where the request leaves it to the model."""

    turns: tuple[Turn, ...]
    tools: tuple[str, ...] = ()
    thinking: bool | None = None
    json_mode: bool = False
    forced_call: bool = False
    is_chat: bool = True


_IMAGES: Final = frozenset({"image", "image_url", "input_image"})
_NO_THINKING: Final = frozenset({"none", "minimal"})


def read_prompt(body: bytes) -> Prompt | None:
    """What a request of any dialect says; None for a body that cannot be read."""
    try:
        asked = msgspec.json.decode(body)
    except UNREADABLE:
        return None
    if not isinstance(asked, dict):
        return None
    if "prompt" in asked:
        return Prompt((Turn("user", text_of(asked["prompt"]) + text_of(asked.get("suffix"))),), is_chat=False)
    return Prompt(
        turns=tuple(_turns(asked)),
        tools=tuple(_tools(asked)),
        thinking=_thinking(asked),
        json_mode=_kind(asked.get("response_format")) == "json_object",
        forced_call=_is_forced(asked.get("tool_choice")),
    )


def _turns(asked: Mapping[str, Any]) -> Iterator[Turn]:
    """Chat and Anthropic have `messages` (and `system`), Responses `input` (and `instructions`)."""
    for name in ("system", "instructions"):
        if asked.get(name):
            yield Turn("system", _text(asked[name]))
    said = asked.get("messages", asked.get("input"))
    if isinstance(said, str):
        yield Turn("user", said)
    for message in said if isinstance(said, list) else ():
        if isinstance(message, dict):
            yield _turn(message)


def _turn(message: Mapping[str, Any]) -> Turn:
    kind = _string(message.get("type"))
    if kind == "function_call":
        return Turn("assistant", calls=(_call(message),))
    if kind == "function_call_output":
        return Turn("tool", _text(message.get("output")))
    content = message.get("content")
    blocks = [block for block in content if isinstance(block, dict)] if isinstance(content, list) else []
    calls = [_call(call.get("function") or call) for call in _dicts(message.get("tool_calls"))]
    calls += [_call(block) for block in blocks if block.get("type") == "tool_use"]
    thought = "".join(text_of(block.get("thinking")) for block in blocks)
    return Turn(
        role=_string(message.get("role")) or ("assistant" if kind == "reasoning" else "user"),
        text=_text(content),
        reasoning=text_of(message.get("reasoning_content")) + thought,
        calls=tuple(calls),
        images=sum(block.get("type") in _IMAGES for block in blocks),
    )


def _text(content: Any) -> str:
    """The words of some content, those inside the results of tools included."""
    if not isinstance(content, list):
        return text_of(content)
    nested = (_text(block.get("content")) for block in _dicts(content) if block.get("type") == "tool_result")
    return text_of(content) + "".join(nested)


def _call(call: Any) -> SaidCall:
    if not isinstance(call, dict):
        return SaidCall("", "")
    arguments = call.get("arguments", call.get("input", ""))
    said = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return SaidCall(_string(call.get("name")), said)


def _tools(asked: Mapping[str, Any]) -> Iterator[str]:
    """Each function as JSON with blanks behind the separators, as templates print it."""
    for tool in _dicts(asked.get("tools")):
        described = tool.get("function") or tool
        if isinstance(described, dict):
            described = {name: value for name, value in described.items() if name != "type"}
        yield msgspec.json.format(msgspec.json.encode(described), indent=0).decode()


def _thinking(asked: Mapping[str, Any]) -> bool | None:
    """DeepSeek: `thinking.type` (api-docs.deepseek.com, create-chat-completion); an effort of `none` was seen to do the same."""
    kind = _kind(asked.get("thinking"))
    if kind in ("enabled", "disabled"):
        return kind == "enabled"
    reasoning = asked.get("reasoning")
    effort = asked.get("reasoning_effort") or (reasoning.get("effort") if isinstance(reasoning, dict) else None)
    if isinstance(effort, str):
        return effort not in _NO_THINKING
    return {"deepseek-chat": False, "deepseek-reasoner": True}.get(_string(asked.get("model")))


def _is_forced(choice: Any) -> bool:
    return choice in ("required", "any") or _kind(choice) in ("function", "tool", "any")


def _kind(value: Any) -> str:
    return _string(value.get("type")) if isinstance(value, dict) else ""


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
