"""A host's usage object: JSON in, four disjoint counts out. One table of fields per dialect, one way to check them.

Rule 1: what the host reported is taken at its word. A sum that does not add up is a named violation, never a repair of
        the totals; only the split into disjoint kinds is held to be possible (no negative counts).
Rule 2: absent is not zero. Without a prompt and a completion count there is no usage.
Rule 3: a usage is one object. Where a dialect spreads it over a stream (Anthropic), its reader puts it together first.
"""

import re
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType

from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.usage import Missing, Rule, TokenUsage

MAX_TOKENS: Final = 10**12
"""A count above a million times the largest context is no count; it would also come near the range of Redis integers."""

LITERAL_CHARACTERS: Final = 1024
"""Most that a record keeps of a report that broke a rule."""

_STRING: Final = re.compile(r'"((?:[^"\\]|\\.)*+)("?)(\s*:)?', re.DOTALL)
_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_NUMBER: Final = re.compile(r"[0-9.eE+-]{0,32}")
_TEXT: Final = '"…"'


class Counts(msgspec.Struct):
    """What a host says, in one shape for all dialects. None: it does not say. `prompt` holds the cache hits, too."""

    prompt: int
    completion: int
    hit: int | None = None
    miss: int | None = None
    reasoning: int | None = None
    total: int | None = None


class UsageReport(msgspec.Struct, frozen=True):
    """A reported usage: the disjoint counts, the rules it broke, and the report itself where it broke any.

    `reasoning_reported` is False where the host did not say how much of the completion was reasoning, or said 0.
    """

    usage: TokenUsage
    violations: tuple[Rule, ...] = ()
    literal: str = ""
    reasoning_reported: bool = True


class _Details(msgspec.Struct):
    """What stands inside `prompt_tokens_details`, `completion_tokens_details` and their like."""

    cached_tokens: Any = None
    reasoning_tokens: Any = None


class _ChatUsage(msgspec.Struct):
    """`prompt_cache_*` are DeepSeek's; Azure and SGLang put `reasoning_tokens`, Together `cached_tokens` at the top."""

    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: Raw | UnsetType = UNSET
    completion_tokens_details: Raw | UnsetType = UNSET
    prompt_cache_hit_tokens: Any = None
    prompt_cache_miss_tokens: Any = None
    cached_tokens: Any = None
    reasoning_tokens: Any = None


class _ResponsesUsage(msgspec.Struct):
    input_tokens: Any = None
    output_tokens: Any = None
    total_tokens: Any = None
    input_tokens_details: Raw | UnsetType = UNSET
    output_tokens_details: Raw | UnsetType = UNSET


class AnthropicUsage(msgspec.Struct):
    """Anthropic's usage: `input_tokens` is what was neither read from a cache nor written to one."""

    input_tokens: Any = None
    output_tokens: Any = None
    cache_creation_input_tokens: Any = None
    cache_read_input_tokens: Any = None


class _ConverseUsage(msgspec.Struct):
    input: Any = msgspec.field(default=None, name="inputTokens")
    output: Any = msgspec.field(default=None, name="outputTokens")
    total: Any = msgspec.field(default=None, name="totalTokens")
    cache_read: Any = msgspec.field(default=None, name="cacheReadInputTokens")
    cache_write: Any = msgspec.field(default=None, name="cacheWriteInputTokens")


_chat: Final = msgspec.json.Decoder(_ChatUsage)
_responses: Final = msgspec.json.Decoder(_ResponsesUsage)
_anthropic: Final = msgspec.json.Decoder(AnthropicUsage)
_converse: Final = msgspec.json.Decoder(_ConverseUsage)
_details: Final = msgspec.json.Decoder(_Details)


def read_chat_usage(raw: bytes) -> UsageReport:
    """The usage of chat and FIM completions. Raises MeteringFaultError(broken_usage) if it cannot be read as one.

    DeepSeek: `prompt = hit + miss`, reasoning is inside completion (api-docs.deepseek.com, create-chat-completion).
    """
    seen = _decoded(_chat, raw)
    prompt, completion = _within(seen.prompt_tokens_details), _within(seen.completion_tokens_details)
    return _report(
        raw,
        seen.prompt_tokens,
        seen.completion_tokens,
        hit=_first(seen.prompt_cache_hit_tokens, prompt.cached_tokens, seen.cached_tokens),
        miss=seen.prompt_cache_miss_tokens,
        reasoning=_first(completion.reasoning_tokens, seen.reasoning_tokens),
        total=seen.total_tokens,
    )


def read_responses_usage(raw: bytes) -> UsageReport:
    """The usage of the Responses API: input includes cached, output includes reasoning. Raises as `read_chat_usage`."""
    seen = _decoded(_responses, raw)
    return _report(
        raw,
        seen.input_tokens,
        seen.output_tokens,
        hit=_within(seen.input_tokens_details).cached_tokens,
        reasoning=_within(seen.output_tokens_details).reasoning_tokens,
        total=seen.total_tokens,
    )


def read_converse_usage(raw: bytes) -> UsageReport:
    """The usage of Bedrock's Converse: what the cache gave stands beside the input. Raises as `read_chat_usage`."""
    seen = _decoded(_converse, raw)
    beside = (whole(seen.cache_read) or 0) + (whole(seen.cache_write) or 0)
    prompt = whole(seen.input)
    return _report(raw, None if prompt is None else prompt + beside, seen.output, hit=seen.cache_read, total=seen.total)


def decode_anthropic_usage(raw: bytes) -> AnthropicUsage:
    """A usage of the Anthropic dialect, whole or in part. Raises MeteringFaultError(broken_usage)."""
    return _decoded(_anthropic, raw)


def anthropic_report(seen: AnthropicUsage, raw: bytes) -> UsageReport:
    """The report of a usage of the Anthropic dialect, put together. Raises as `read_chat_usage`.

    It has no count of reasoning. A cache write is a miss: DeepSeek does not charge for it apart.
    """
    hit, created = whole(seen.cache_read_input_tokens) or 0, whole(seen.cache_creation_input_tokens) or 0
    read = whole(seen.input_tokens)
    prompt = None if read is None else read + hit + created
    return _report(raw, prompt, seen.output_tokens, hit=seen.cache_read_input_tokens)


def whole(value: Any) -> int | None:
    """A count as it stands in JSON, where 12.0 is 12; None for what is no count."""
    if value.__class__ is float and value.is_integer():
        value = int(value)
    return value if value.__class__ is int and -MAX_TOKENS <= value <= MAX_TOKENS else None


def literal_of(raw: bytes) -> str:
    """A report that broke a rule, as a record keeps it: its names and numbers, and no text a host may have put among them."""
    return _STRING.sub(_shown, raw[: 4 * LITERAL_CHARACTERS].decode("utf-8", "replace"))[:LITERAL_CHARACTERS]


def _shown(found: re.Match[str]) -> str:
    text, closed, colon = found.groups()
    fits = (_NAME if colon else _NUMBER).fullmatch(text)
    return found[0] if closed and fits else _TEXT + (colon or "")


T = TypeVar("T")


def _decoded(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    try:
        return decoder.decode(raw)
    except UNREADABLE as error:
        raise MeteringFaultError(Missing.BROKEN_USAGE) from error


def _within(details: Raw | UnsetType) -> _Details:
    """Details that are no object (null, or `[]` as some languages write an empty one) say nothing."""
    if details is UNSET:
        return _Details()
    try:
        return _details.decode(bytes(details))
    except UNREADABLE:
        return _Details()


def _first(*values: Any) -> Any:
    """The first that was said."""
    return next((value for value in values if value is not None), None)


def _report(
    raw: bytes,
    prompt: Any,
    completion: Any,
    *,
    hit: Any = None,
    miss: Any = None,
    reasoning: Any = None,
    total: Any = None,
) -> UsageReport:
    """The report of these fields. Without prompt and completion there is none; one beside them that is no count is named."""
    of_prompt, of_completion = whole(prompt), whole(completion)
    if of_prompt is None or of_completion is None:
        raise MeteringFaultError(Missing.BROKEN_USAGE)
    seen = Counts(of_prompt, of_completion, whole(hit), whole(miss), whole(reasoning), whole(total))
    violations = _violations(seen)
    said, read = (hit, miss, reasoning, total), (seen.hit, seen.miss, seen.reasoning, seen.total)
    if said.count(None) != read.count(None):
        violations += (Rule.UNREADABLE_FIELD,)
    literal = literal_of(raw) if violations else ""
    return UsageReport(_disjoint(seen), violations, literal, bool(seen.reasoning))


def _disjoint(seen: Counts) -> TokenUsage:
    hit = seen.hit or 0
    miss = seen.prompt - hit if seen.miss is None else seen.miss
    completion = max(seen.completion, 0)
    reasoning = min(max(seen.reasoning or 0, 0), completion)
    return TokenUsage(max(hit, 0), max(miss, 0), reasoning, completion - reasoning)


def _violations(seen: Counts) -> tuple[Rule, ...]:
    hit, reasoning, both = seen.hit or 0, seen.reasoning or 0, seen.prompt + seen.completion
    miss = seen.prompt - hit if seen.miss is None else seen.miss
    total = both if seen.total is None else seen.total
    broken = (
        (Rule.PROMPT_SUM, hit + miss != seen.prompt),
        (Rule.REASONING_WITHIN_COMPLETION, reasoning > seen.completion),
        (Rule.TOTAL_SUM, both != total),
        (Rule.NOT_NEGATIVE, min(hit, miss, reasoning, seen.prompt, seen.completion, total) < 0),
    )
    return tuple(rule for rule, is_broken in broken if is_broken)
