"""The bytes of DeepSeek's answers: streams event by event, JSON bodies, models and balance. Pure.

Shapes and the order of keys are those of recorded answers. A stream is one event per token: first one with the role,
then reasoning deltas, then content deltas, then one with empty content, the finish reason and the usage, then `[DONE]`.
In thinking mode there is one content delta less than answer tokens: the token that ends the thinking is counted and
never sent. A tool call's markup is counted and not sent either. Nothing is serialised per delta: the constant parts of
an event are made once per stream, and the filler words below are escaped once for all.
"""

from collections.abc import Iterator

import msgspec

from proxy.simulator.plan import Plan
from proxy.simulator.tariff import Tokens

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE_COMMENT = b": keep-alive\n\n"
KEEP_ALIVE_LINE = b"\n"

FILLER = (
    *(" The", " river", " carries", " small", " boats", " past", " the", " old", " mill", ",", " and", " nobody"),
    *(" counts", " them", ".", "\n\n", " A", " lamp", ' "', "burns", '"', " in", " every", " third", " window", ";"),
    *(
        " rain",
        " makes",
        " the",
        " roofs",
        " shine",
        " like",
        " tea",
        " caf\u00e9s",
        " at",
        " \u4e94",
        "\u70b9",
        "\u3002",
    ),
    *(
        " \U0001f327",
        "\tsaid",
        " the",
        " clerk",
        " \\",
        " who",
        " had",
        " 1",
        "2",
        " keys",
        "!",
        "\n",
        " Good",
        " night",
    ),
)
"""Words of no consequence, one per token, with everything JSON escapes and UTF-8 stretches."""

WORDS = tuple(msgspec.json.encode(word)[1:-1] for word in FILLER)
"""The filler as it stands inside a JSON string."""

TOOL_NAME = "look_up"
TOOL_MARKUP_TOKENS = 12
"""Most tokens of a tool call that are counted but never sent; about what recordings show for one call."""


class Envelope(msgspec.Struct, frozen=True):
    """What all events of an answer share."""

    exchange_id: str
    created: int
    served: str
    fingerprint: str

    def fields(self, kind: str) -> bytes:
        """`"id":…,"object":…,"created":…,"model":…` of a chat answer."""
        fields = {"id": self.exchange_id, "object": kind, "created": self.created, "model": self.served}
        return msgspec.json.encode(fields)[1:-1]

    def fingerprint_json(self) -> bytes:
        """The fingerprint as JSON; null where the host sends none."""
        return msgspec.json.encode(self.fingerprint or None)


def envelope(plan: Plan, created: int) -> Envelope:
    """The envelope of a planned exchange that began at second `created`."""
    return Envelope(plan.exchange_id, created, plan.served, plan.fingerprint)


def usage_json(tokens: Tokens, *, thinking: bool) -> bytes:
    """DeepSeek's usage object. The details of the completion are there only when the model was thinking."""
    usage: dict[str, object] = {
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
        "prompt_tokens_details": {"cached_tokens": tokens.hit},
    }
    if thinking:
        usage["completion_tokens_details"] = {"reasoning_tokens": tokens.reasoning}
    usage["prompt_cache_hit_tokens"] = tokens.hit
    usage["prompt_cache_miss_tokens"] = tokens.miss
    return msgspec.json.encode(usage)


class Parts(msgspec.Struct, frozen=True):
    """How many deltas of each sort a plan has, and how many tokens are counted but never sent before the last sort."""

    reasoning: int
    content: int
    arguments: int
    unsent: int

    @property
    def deltas(self) -> int:
        """All deltas."""
        return self.reasoning + self.content + self.arguments


def parts(plan: Plan) -> Parts:
    """How a planned completion is divided into deltas."""
    ended_thinking = 1 if plan.thinking and plan.tokens.answer else 0
    left = plan.tokens.answer - ended_thinking
    if not plan.tool_call:
        return Parts(plan.tokens.reasoning, left, 0, ended_thinking)
    markup = min(TOOL_MARKUP_TOKENS, left // 2)
    content = (left - markup) // 3
    return Parts(plan.tokens.reasoning, content, left - markup - content, ended_thinking + markup)


def produced(plan: Plan, deltas: int) -> Tokens:
    """The tokens an exchange has used up after so many deltas. Unsent ones count as soon as something follows them."""
    shape = parts(plan)
    if deltas >= shape.deltas:
        return plan.tokens
    reasoning = min(deltas, shape.reasoning)
    answer = deltas - reasoning
    if answer:
        answer += 1 if plan.thinking else 0
    if deltas > shape.reasoning + shape.content:
        answer = plan.tokens.answer - (shape.deltas - deltas)
    return msgspec.structs.replace(plan.tokens, reasoning=reasoning, answer=answer)


class Stream(msgspec.Struct, frozen=True):
    """The events of one streamed answer. `finish` carries the usage; `[DONE]` follows it."""

    opening: bytes
    deltas: Iterator[bytes]
    finish: bytes


def chat_stream(plan: Plan, created: int, *, include_usage: bool) -> Stream:
    """The events of a streamed chat answer. With `include_usage` all but the last say `"usage":null`."""
    about = envelope(plan, created)
    head = b"".join(
        (
            b"data: {",
            about.fields("chat.completion.chunk"),
            b',"system_fingerprint":',
            about.fingerprint_json(),
            b',"choices":[{"index":0,"delta":{',
        )
    )
    tail = b'},"logprobs":null,"finish_reason":null}]' + (b',"usage":null}\n\n' if include_usage else b"}\n\n")
    opening = b'"role":"assistant","content":null,"reasoning_content":""' if plan.thinking else _OPENING
    closing = b'"content":"","reasoning_content":null' if plan.thinking else b'"content":""'
    return Stream(
        opening=head + opening + tail,
        deltas=_chat_deltas(plan, head, tail),
        finish=b"".join((head, closing, _finish(plan), b"}\n\n")),
    )


_OPENING = b'"role":"assistant","content":""'


def _finish(plan: Plan) -> bytes:
    """The end of the last event: finish reason and usage."""
    reason = msgspec.json.encode(plan.finish_reason)
    return b'},"logprobs":null,"finish_reason":%b}],"usage":%b' % (
        reason,
        usage_json(plan.tokens, thinking=plan.thinking),
    )


def _chat_deltas(plan: Plan, head: bytes, tail: bytes) -> Iterator[bytes]:
    """Reasoning, then content, then the arguments of a tool call, one token each."""
    shape = parts(plan)
    before, after = head + b'"content":null,"reasoning_content":"', b'"' + tail
    yield from _texts(before, after, plan.offset, shape.reasoning)
    before, after = head + b'"content":"', (b'","reasoning_content":null' if plan.thinking else b'"') + tail
    yield from _texts(before, after, plan.offset + shape.reasoning, shape.content)
    if shape.arguments:
        yield from _tool_deltas(plan, head, tail, shape.arguments)


def _texts(before: bytes, after: bytes, offset: int, count: int) -> Iterator[bytes]:
    """`count` events with the next words of the filler."""
    size = len(WORDS)
    for position in range(offset, offset + count):
        yield before + WORDS[position % size] + after


def _tool_deltas(plan: Plan, head: bytes, tail: bytes, count: int) -> Iterator[bytes]:
    """The name of the tool first, then its arguments in `count - 1` pieces that are JSON when put together."""
    call = msgspec.json.encode(_tool_call(plan, ""))
    yield head + b'"tool_calls":[' + call + b"]" + tail
    for piece in _argument_pieces(count - 1):
        text = msgspec.json.encode(piece)
        yield head + b'"tool_calls":[{"index":0,"function":{"arguments":' + text + b"}}]" + tail


def _argument_pieces(count: int) -> list[str]:
    """The arguments of a tool call in `count` pieces."""
    if count < 3:
        return ["{}"] + [" "] * (count - 1) if count else []
    return ['{"numbers":[0', *([",1"] * (count - 2)), "]}"]


def _tool_call(plan: Plan, arguments: str) -> dict[str, object]:
    function = {"name": TOOL_NAME, "arguments": arguments}
    call_id = "call_00_" + plan.exchange_id.replace("-", "")[:24]
    return {"index": 0, "id": call_id, "type": "function", "function": function}


def _text(offset: int, count: int) -> bytes:
    """`count` words of the filler as a JSON string."""
    size = len(WORDS)
    return b'"' + b"".join(WORDS[position % size] for position in range(offset, offset + count)) + b'"'


def chat_body(plan: Plan, created: int) -> bytes:
    """A chat answer that is not streamed."""
    shape, about = parts(plan), envelope(plan, created)
    message = [b'"role":"assistant","content":' + _text(plan.offset + shape.reasoning, shape.content)]
    if plan.thinking:
        message.append(b'"reasoning_content":' + _text(plan.offset, shape.reasoning))
    if shape.arguments:
        call = _tool_call(plan, "".join(_argument_pieces(shape.arguments - 1)))
        message.append(b'"tool_calls":' + msgspec.json.encode([call]))
    return b"".join(
        (
            b"{",
            about.fields("chat.completion"),
            b',"choices":[{"index":0,"message":{',
            b",".join(message),
            _finish(plan),
            b',"system_fingerprint":',
            about.fingerprint_json(),
            b"}",
        )
    )
