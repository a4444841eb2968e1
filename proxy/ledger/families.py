"""Every counter family that lives in Redis, as a table: name, labels, unit, help. Writer and reader share it.

The tally writes fields of these families, the console reads them, README's metrics table is generated from them. A
field of the totals hash is the JSON array `[family, label value, ...]`, its value an integer in the family's own unit
(`scale` of them make one of the exported unit). Histograms are stored as their plain (not cumulated) bucket counts.
"""

from typing import Final

import msgspec

PREFIX: Final = "deepseek_meter_"
NANO: Final = 1_000_000_000
MICRO: Final = 1_000_000

DURATION_BUCKETS_S: Final = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0, 640.0, 1800.0)
"""From a cached short answer to half an hour of thinking, DeepSeek's own old limit."""

FIRST_CHUNK_BUCKETS_S: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 600.0)
"""Up to ten minutes: DeepSeek closes what has not begun by then."""


class Family(msgspec.Struct, frozen=True):
    """A counter family. `scale` stored units make one exported unit; `buckets` are set for a histogram."""

    name: str
    labels: tuple[str, ...]
    help: str
    scale: int = 1
    buckets: tuple[float, ...] = ()


_PLACE: Final = ("upstream", "version", "model")

_TABLE: Final = (
    Family("tokens_total", (*_PLACE, "kind", "source"), "Tokens by kind. The kinds are disjoint: sum() is right."),
    Family("cost_usd_total", (*_PLACE, "kind", "source"), "Cost in US dollars at the price in force.", NANO),
    Family("cost_cny_total", (*_PLACE, "kind", "source"), "Cost in Chinese yuan, by the yuan price list.", NANO),
    Family("requests_total", (*_PLACE, "api", "outcome"), "Exchanges by how they ended."),
    Family("unpriced_tokens_total", (*_PLACE, "kind", "currency"), "Tokens that have no price in this currency."),
    Family("requests_without_usage_total", ("version", "model", "reason"), "Exchanges whose usage was not reported."),
    Family("usage_violations_total", ("version", "model", "rule"), "Reported usages that broke a rule, by rule."),
    Family(
        "version_mismatches_total",
        ("expected", "version"),
        "Exchanges that another version answered than the client expected.",
    ),
    Family(
        "version_changes_total",
        ("model",),
        "Answers under a name that changed: another version, or another build of the same one.",
    ),
    Family(
        "cost_uncertain_usd_total", ("version",), "Part of the cost that an unpublished holiday may take back.", NANO
    ),
    Family(
        "cache_savings_usd_total",
        ("version", "model"),
        "What cache hits would have cost more as misses, in US dollars.",
        NANO,
    ),
    Family(
        "peak_premium_usd_total",
        ("version", "model"),
        "What was charged more than off-peak, in US dollars.",
        NANO,
    ),
    Family("records_unreplayable_total", (), "Records that Redis lost and whose journal is gone."),
    Family("records_quarantined_total", (), "Records that could not be applied and were set aside."),
    Family("app_cost_usd_total", ("app", "version"), "Cost in US dollars by app.", NANO),
    Family("app_tokens_total", ("app", "version", "kind"), "Tokens by app."),
    Family("app_requests_total", ("app", "version"), "Exchanges by app."),
    Family("purpose_cost_usd_total", ("purpose", "version"), "Cost in US dollars by purpose.", NANO),
    Family("budget_refusals_total", ("budget",), "Requests refused because a budget was used up."),
    Family(
        "request_duration_seconds",
        ("version",),
        "Time from the request's head to the end of the exchange.",
        MICRO,
        DURATION_BUCKETS_S,
    ),
    Family(
        "time_to_first_chunk_seconds",
        ("version",),
        "Time from the request's head to the first byte of the response's body.",
        MICRO,
        FIRST_CHUNK_BUCKETS_S,
    ),
)

FAMILIES: Final = {family.name: family for family in _TABLE}


def series_field(family: str, *labels: str) -> str:
    """The field of the totals hash for one series. Raises KeyError/ValueError for a family or labels not in the table."""
    if len(labels) != len(FAMILIES[family].labels):
        raise ValueError(f"{family} takes {FAMILIES[family].labels}, got {labels}")
    return field_of((family, *labels))


def parse_field(field: bytes | str) -> tuple[str, tuple[str, ...]]:
    """Family and the rest of a field."""
    family, *rest = msgspec.json.decode(field, type=list[str])
    return family, tuple(rest)


def field_of(parts: tuple[str, ...]) -> str:
    """The field of a family and its labels; of a histogram also one part: a bucket by its index, or `sum`."""
    return msgspec.json.encode(parts).decode()
