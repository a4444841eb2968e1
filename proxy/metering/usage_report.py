"""The usage object of OpenAI's dialect, as DeepSeek and other hosts fill it: JSON in, four disjoint counts out.

Rule 1: what the host reported is taken at its word. A sum that does not add up is a named violation, never a repair of
        the totals; only the split into disjoint kinds is held to be possible (no negative counts).
Rule 2: absent is not zero. Without a prompt and a completion count there is no usage.
DeepSeek: `prompt = hit + miss`, reasoning is inside completion (api-docs.deepseek.com, create-chat-completion).
"""

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from proxy.metering.faults import UNREADABLE, MeteringFaultError
from proxy.usage import Missing, Rule, TokenUsage

MAX_TOKENS: Final = 10**12
"""A count above a million times the largest context is no count; it would also come near the range of Redis integers."""

_Tokens = Annotated[int, Meta(ge=-MAX_TOKENS, le=MAX_TOKENS)]


class _PromptDetails(msgspec.Struct):
    cached_tokens: _Tokens | None = None


class _CompletionDetails(msgspec.Struct):
    reasoning_tokens: _Tokens | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: _Tokens | None = None
    completion_tokens: _Tokens | None = None
    total_tokens: _Tokens | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None
    prompt_cache_hit_tokens: _Tokens | None = None
    prompt_cache_miss_tokens: _Tokens | None = None


class UsageReport(msgspec.Struct, frozen=True):
    """A reported usage: the disjoint counts, the rules it broke, and the report itself where it broke any."""

    usage: TokenUsage
    violations: tuple[Rule, ...] = ()
    literal: str = ""


_decoder: Final = msgspec.json.Decoder(_Usage)


def read_usage(raw: bytes) -> UsageReport:
    """The usage in `raw` (a JSON object). Raises MeteringFaultError(broken_usage) if it cannot be read as one."""
    try:
        seen = _decoder.decode(raw)
    except UNREADABLE as error:
        raise MeteringFaultError(Missing.BROKEN_USAGE) from error
    if seen.prompt_tokens is None or seen.completion_tokens is None:
        raise MeteringFaultError(Missing.BROKEN_USAGE)
    usage = _disjoint(seen, seen.prompt_tokens, seen.completion_tokens)
    violations = _violations(seen, seen.prompt_tokens, seen.completion_tokens)
    return UsageReport(usage, violations, raw.decode("utf-8", "replace")[:1024] if violations else "")


def _disjoint(seen: _Usage, prompt: int, completion: int) -> TokenUsage:
    hit = _cache_hit(seen)
    miss = prompt - hit if seen.prompt_cache_miss_tokens is None else seen.prompt_cache_miss_tokens
    reasoning = min(max(_reasoning(seen), 0), max(completion, 0))
    return TokenUsage(max(hit, 0), max(miss, 0), reasoning, max(completion, 0) - reasoning)


def _cache_hit(seen: _Usage) -> int:
    if seen.prompt_cache_hit_tokens is not None:
        return seen.prompt_cache_hit_tokens
    details = seen.prompt_tokens_details
    return (details.cached_tokens or 0) if details else 0


def _reasoning(seen: _Usage) -> int:
    details = seen.completion_tokens_details
    return (details.reasoning_tokens or 0) if details else 0


def _violations(seen: _Usage, prompt: int, completion: int) -> tuple[Rule, ...]:
    hit = _cache_hit(seen)
    miss = prompt - hit if seen.prompt_cache_miss_tokens is None else seen.prompt_cache_miss_tokens
    reasoning = _reasoning(seen)
    total = prompt + completion if seen.total_tokens is None else seen.total_tokens
    broken = (
        (Rule.PROMPT_SUM, hit + miss != prompt),
        (Rule.REASONING_WITHIN_COMPLETION, reasoning > completion),
        (Rule.TOTAL_SUM, prompt + completion != total),
        (Rule.NOT_NEGATIVE, min(hit, miss, reasoning, completion, total) < 0),
    )
    return tuple(rule for rule, is_broken in broken if is_broken)
