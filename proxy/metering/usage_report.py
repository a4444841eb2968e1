"""A host's usage object: JSON in, four disjoint counts out. One table of fields per dialect, one way to check them.

Rule 1: what the host reported is taken at its word. A sum that does not add up is a named violation, never a repair of
        the totals; only the split into disjoint kinds is held to be possible (no negative counts).
Rule 2: absent is not zero. Without a prompt and a completion count there is no usage.
Rule 3: a usage is one object. Where a dialect spreads it over a stream (Anthropic), its reader puts it together first.
"""

from typing import Annotated, Final, TypeVar

import msgspec
from msgspec import Meta

from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.usage import Missing, Rule, TokenUsage

MAX_TOKENS: Final = 10**12
"""A count above a million times the largest context is no count; it would also come near the range of Redis integers."""

LITERAL_CHARACTERS: Final = 1024
"""Most that a record keeps of a report that broke a rule."""

_Tokens = Annotated[int, Meta(ge=-MAX_TOKENS, le=MAX_TOKENS)]


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


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Tokens | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: _Tokens | None = None


class _ChatUsage(msgspec.Struct):
    """`prompt_cache_*` are DeepSeek's; Azure and SGLang put `reasoning_tokens`, Together `cached_tokens` at the top."""

    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: _Tokens | None = None
    prompt_cache_miss_tokens: _Tokens | None = None
    cached_tokens: _Tokens | None = None
    reasoning_tokens: _Tokens | None = None


class _ResponsesUsage(msgspec.Struct):
    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None
    input_tokens_details: _PromptDetails | None = None
    output_tokens_details: _CompletionDetails | None = None


class AnthropicUsage(msgspec.Struct):
    """Anthropic's usage: `input_tokens` is what was neither read from a cache nor written to one."""

    input_tokens: _Tokens | None = None
    output_tokens: _Tokens | None = None
    cache_creation_input_tokens: _Tokens | None = None
    cache_read_input_tokens: _Tokens | None = None


class _ConverseUsage(msgspec.Struct):
    input: _Tokens | None = msgspec.field(default=None, name="inputTokens")
    output: _Tokens | None = msgspec.field(default=None, name="outputTokens")
    total: _Tokens | None = msgspec.field(default=None, name="totalTokens")
    cache_read: _Tokens | None = msgspec.field(default=None, name="cacheReadInputTokens")
    cache_write: _Tokens | None = msgspec.field(default=None, name="cacheWriteInputTokens")


_chat: Final = msgspec.json.Decoder(_ChatUsage)
_responses: Final = msgspec.json.Decoder(_ResponsesUsage)
_anthropic: Final = msgspec.json.Decoder(AnthropicUsage)
_converse: Final = msgspec.json.Decoder(_ConverseUsage)


def read_chat_usage(raw: bytes) -> UsageReport:
    """The usage of chat and FIM completions. Raises MeteringFaultError(broken_usage) if it cannot be read as one.

    DeepSeek: `prompt = hit + miss`, reasoning is inside completion (api-docs.deepseek.com, create-chat-completion).
    """
    seen = _decoded(_chat, raw)
    details = seen.prompt_tokens_details or _PromptDetails()
    of_completion = seen.completion_tokens_details or _CompletionDetails()
    return _report(
        raw,
        _counts(
            seen.prompt_tokens,
            seen.completion_tokens,
            hit=_first(seen.prompt_cache_hit_tokens, details.cached_tokens, seen.cached_tokens),
            miss=seen.prompt_cache_miss_tokens,
            reasoning=_first(of_completion.reasoning_tokens, seen.reasoning_tokens),
            total=seen.total_tokens,
        ),
    )


def read_responses_usage(raw: bytes) -> UsageReport:
    """The usage of the Responses API: input includes cached, output includes reasoning. Raises as `read_chat_usage`."""
    seen = _decoded(_responses, raw)
    details = seen.input_tokens_details or _PromptDetails()
    of_output = seen.output_tokens_details or _CompletionDetails()
    return _report(
        raw,
        _counts(
            seen.input_tokens,
            seen.output_tokens,
            hit=details.cached_tokens,
            reasoning=of_output.reasoning_tokens,
            total=seen.total_tokens,
        ),
    )


def read_converse_usage(raw: bytes) -> UsageReport:
    """The usage of Bedrock's Converse: what the cache gave stands beside the input. Raises as `read_chat_usage`."""
    seen = _decoded(_converse, raw)
    beside = (seen.cache_read or 0) + (seen.cache_write or 0)
    prompt = None if seen.input is None else seen.input + beside
    return _report(raw, _counts(prompt, seen.output, hit=seen.cache_read, total=seen.total))


def decode_anthropic_usage(raw: bytes) -> AnthropicUsage:
    """A usage of the Anthropic dialect, whole or in part. Raises MeteringFaultError(broken_usage)."""
    return _decoded(_anthropic, raw)


def anthropic_report(seen: AnthropicUsage, raw: bytes) -> UsageReport:
    """The report of a usage of the Anthropic dialect, put together. Raises as `read_chat_usage`.

    It has no count of reasoning. A cache write is a miss: DeepSeek does not charge for it apart.
    """
    hit, created = seen.cache_read_input_tokens or 0, seen.cache_creation_input_tokens or 0
    prompt = None if seen.input_tokens is None else seen.input_tokens + hit + created
    return _report(raw, _counts(prompt, seen.output_tokens, hit=hit))


T = TypeVar("T")


def _decoded(decoder: msgspec.json.Decoder[T], raw: bytes) -> T:
    try:
        return decoder.decode(raw)
    except UNREADABLE as error:
        raise MeteringFaultError(Missing.BROKEN_USAGE) from error


def _first(*values: int | None) -> int | None:
    """The first that was said."""
    return next((value for value in values if value is not None), None)


def _counts(
    prompt: int | None,
    completion: int | None,
    *,
    hit: int | None = None,
    miss: int | None = None,
    reasoning: int | None = None,
    total: int | None = None,
) -> Counts:
    if prompt is None or completion is None:
        raise MeteringFaultError(Missing.BROKEN_USAGE)
    return Counts(prompt, completion, hit, miss, reasoning, total)


def _report(raw: bytes, seen: Counts) -> UsageReport:
    violations = _violations(seen)
    return UsageReport(
        _disjoint(seen),
        violations,
        raw.decode("utf-8", "replace")[:LITERAL_CHARACTERS] if violations else "",
        bool(seen.reasoning),
    )


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
