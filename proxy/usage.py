"""The facts everything else makes or carries: tokens, charges and the record of one exchange.

Rule 1: nothing of ours is imported here, and nothing here does I/O or asks for the time.
Rule 2: every value is frozen. Tokens are `int`; money is `int` nano-units (10^-9) of the currency named beside it;
        instants are `float` seconds since the epoch (UTC) and end in `_s`, durations are monotonic seconds.
Rule 3: the four kinds of token are disjoint. They add up to the total, so that every `sum()` over them is right.
"""

import re
from enum import StrEnum
from typing import Final

import msgspec

EXCHANGE_ID: Final = re.compile(r"[0-9a-f]{24}")
"""What the id of an exchange looks like."""


class Kind(StrEnum):
    """A kind of token. The four are disjoint: hit + miss = prompt, reasoning + answer = completion."""

    INPUT_CACHE_HIT = "input_cache_hit"
    INPUT_CACHE_MISS = "input_cache_miss"
    OUTPUT_REASONING = "output_reasoning"
    OUTPUT_ANSWER = "output_answer"


KINDS = tuple(Kind)


class Source(StrEnum):
    """Where the counts of a record come from. `NONE` stands where there are no counts, and none were guessed."""

    REPORTED = "reported"
    ESTIMATED = "estimated"
    NONE = "none"


class Outcome(StrEnum):
    """How an exchange ended, as of the moment its record was written."""

    COMPLETE = "complete"
    CLIENT_DISCONNECTED = "client_disconnected"
    UPSTREAM_DISCONNECTED = "upstream_disconnected"
    UPSTREAM_ERROR = "upstream_error"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"
    INTERRUPTED = "interrupted"


class Api(StrEnum):
    """The dialect of an exchange, told by its path."""

    CHAT = "chat"
    FIM = "fim"
    ANTHROPIC = "anthropic"
    RESPONSES = "responses"
    MODELS = "models"
    BALANCE = "balance"
    FILES = "files"
    OTHER = "other"


METERED_APIS = frozenset({Api.CHAT, Api.FIM, Api.ANTHROPIC, Api.RESPONSES})
"""The dialects whose exchanges cost tokens."""


class Purpose(StrEnum):
    """Why the client asked, in its own words (`X-Meter-Purpose`)."""

    PRODUCTION = "production"
    VALIDATION = "validation"
    SHADOW = "shadow"


class How(StrEnum):
    """How the version of an exchange was found, best evidence first."""

    ROUTE = "route"
    FINGERPRINT = "fingerprint"
    ALIAS = "alias"
    SERVED_NAME = "served_name"
    REQUESTED_NAME = "requested_name"
    UNKNOWN = "unknown"


class Band(StrEnum):
    """The part of the day's tariff an exchange fell into. `UNKNOWN` is charged as peak and counted as uncertain."""

    PEAK = "peak"
    OFF_PEAK = "off_peak"
    FLAT = "flat"
    UNKNOWN = "unknown"


CURRENCIES = ("USD", "CNY")
"""The currencies DeepSeek publishes prices in. They stand side by side and are never converted or added."""


class Missing(StrEnum):
    """Why a metered exchange has no reported usage."""

    NOT_REPORTED = "not_reported"  # the body ended well and held no usage
    DISCONNECTED = "disconnected"  # the body ended before its end
    BROKEN_USAGE = "broken_usage"  # a usage was there and could not be read
    UNREADABLE_BODY = "unreadable_body"  # neither an event stream nor JSON of the dialect
    EVENT_TOO_LARGE = "event_too_large"
    BODY_TOO_LARGE = "body_too_large"
    CONTENT_ENCODING = "content_encoding"  # compressed in a way the meter does not read
    UNSUPPORTED_API = "unsupported_api"  # in records of the releases that had no reader for the dialect
    INTERRUPTED = "interrupted"  # the proxy died in between
    METER_FAULT = "meter_fault"  # our own error


class Rule(StrEnum):
    """What a reported usage has to satisfy. A violation is counted and the reported numbers are kept."""

    PROMPT_SUM = "prompt_sum"  # cache hit + cache miss = prompt
    REASONING_WITHIN_COMPLETION = "reasoning_within_completion"
    TOTAL_SUM = "total_sum"  # prompt + completion = total
    NOT_NEGATIVE = "not_negative"
    UNREADABLE_FIELD = "unreadable_field"  # beside good totals stands something that is no count


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens of one exchange by kind. The four are disjoint and never negative."""

    input_cache_hit: int = 0
    input_cache_miss: int = 0
    output_reasoning: int = 0
    output_answer: int = 0

    @property
    def prompt(self) -> int:
        """Input tokens, cached or not."""
        return self.input_cache_hit + self.input_cache_miss

    @property
    def completion(self) -> int:
        """Output tokens, reasoning included."""
        return self.output_reasoning + self.output_answer

    @property
    def total(self) -> int:
        """All tokens."""
        return self.prompt + self.completion

    def by_kind(self) -> tuple[tuple[Kind, int], ...]:
        """The four counts in the order of `KINDS`."""
        return (
            (Kind.INPUT_CACHE_HIT, self.input_cache_hit),
            (Kind.INPUT_CACHE_MISS, self.input_cache_miss),
            (Kind.OUTPUT_REASONING, self.output_reasoning),
            (Kind.OUTPUT_ANSWER, self.output_answer),
        )


class Charge(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one exchange cost in one currency, at one dated price.

    `nanos` holds the cost per kind in nano-units, rounded half-even once, in the order of `KINDS`.
    `uncertain_nanos` is how much less it may have been: the difference to the lower band where only an
    unpublished holiday calendar could tell which of the two applied; else 0.
    `saved_nanos` is how much more the cache hits would have cost as misses, `premium_nanos` how much less everything would
    have cost off-peak, where the peak price was charged.
    """

    currency: str
    price_id: str
    band: Band
    nanos: tuple[int, int, int, int]
    uncertain_nanos: int = 0
    saved_nanos: int = 0
    premium_nanos: int = 0

    @property
    def total_nanos(self) -> int:
        """The whole charge in nano-units: the sum of its rounded parts."""
        return sum(self.nanos)


class Share(msgspec.Struct, frozen=True, array_like=True):
    """What one exchange takes of one budget.

    In which of its buckets (by its start, seconds since the epoch), how many nano-units were reserved for it before it began
    (0: none were), and how many it took in the end.
    """

    budget: str
    bucket_s: int
    reserved_nanos: int = 0
    taken_nanos: int = 0


class UsageRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One exchange, metered: the only thing that goes into the journal and from there into every counter.

    `usage` is None where nothing was reported and nothing was estimated; then `source` is `none` and, for an exchange
    that may have cost something, `missing` says why. Where the counts are estimated, `missing` says why they were not reported.
    `violations` names the rules a reported usage broke, and `reported_usage` then keeps it literally, as JSON; it also
    keeps a usage that could not be read. `reasoning_counted` is True where the host reported the completion but not what
    of it was reasoning, and our count of the reasoning's text divided it.
    `start_s` is when the request's head was read, `first_chunk_s` when the first byte of the response's body came
    (0.0: none came), `end_s` when the exchange ended; `duration_s` and `first_chunk_after_s` are measured on the
    monotonic clock. A currency without a charge is a currency in which this exchange has no price. `version_mismatch` is
    the version the client expected, as it is counted, where another one answered. `shares` are the budgets it is counted
    in, `is_reserved` is True where something was, or may have been, reserved for it, and `refused_by` names the budget that
    turned it away.
    """

    exchange_id: str
    api: Api
    upstream: str
    model: str
    version: str
    how: How
    outcome: Outcome
    source: Source
    app: str
    purpose: Purpose
    start_s: float
    end_s: float
    duration_s: float
    served_model: str = ""
    fingerprint: str = ""
    expected_version: str = ""
    version_mismatch: str = ""
    status: int = 0
    finish_reason: str = ""
    streamed: bool = False
    usage: TokenUsage | None = None
    missing: Missing | None = None
    violations: tuple[Rule, ...] = ()
    reported_usage: str = ""
    reasoning_counted: bool = False
    charges: tuple[Charge, ...] = ()
    pricing_instant_s: float = 0.0
    first_chunk_s: float = 0.0
    first_chunk_after_s: float = 0.0
    shares: tuple[Share, ...] = ()
    is_reserved: bool = False
    refused_by: str = ""


class BegunMark(msgspec.Struct, frozen=True, array_like=True):
    """What is known of an exchange before its request goes to the upstream: enough for a record, should we die now.

    An array in JSON, because one is written for every exchange. `body_bytes` is the size of the request's body, `reserved`
    what was reserved for it, `payer` who asks by the key alone, where that is not the app, `budgets` are those that the client's key names.
    """

    exchange_id: str
    start_s: float
    api: Api
    model: str
    app: str
    body_bytes: int = 0
    streamed: bool = False
    purpose: Purpose = Purpose.PRODUCTION
    expected_version: str = ""
    upstream: str = "default"
    reserved: tuple[Share, ...] = ()
    payer: str = ""
    budgets: tuple[str, ...] = ()


LABEL_CHARACTERS = 128
"""Longest label value. A name beyond it is cut, never refused: metering cannot hurt relaying."""


def clean_label(text: str) -> str:
    """`text` as it may stand in a metric, a journal line and a Redis field: printable, at most 128 characters."""
    if len(text) <= LABEL_CHARACTERS and text.isprintable():
        return text
    printable = "".join(character if character.isprintable() else "?" for character in text[:LABEL_CHARACTERS])
    return printable.strip()
