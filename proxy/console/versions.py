"""What the versions cost, and what changed under a name: `/api/versions`. Pure: a snapshot and the events in, a document out.

The registry of revisions notes a change at its first exchange, and counters are kept apart from there on; so the cost before
and after it is that of two version tags on one host, exactly. Money is text, in decimal, as everywhere in JSON.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from proxy.ledger.answers import Change, Snapshot
from proxy.ledger.families import parse_field
from proxy.pricing.fixed import FixedCost, month_around
from proxy.pricing.tariff import decimal
from proxy.usage import KINDS, Outcome

_COST: Final = {"cost_usd_total": "USD", "cost_cny_total": "CNY"}
_NOT_ANSWERED: Final = {Outcome.UPSTREAM_ERROR.value, Outcome.REFUSED.value}


class Tag(NamedTuple):
    """A version tag on a host."""

    upstream: str
    version: str


class Figures:
    """What was counted of a version tag: exchanges that were answered, tokens by kind, nano-units by currency."""

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = dict.fromkeys((kind.value for kind in KINDS), 0)
        self.nanos: dict[str, int] = defaultdict(int)

    def as_json(self) -> dict[str, Any]:
        """Counts, cost and cost per answered request; without any, there is none."""
        each = (
            {name: decimal(round(nanos / self.requests)) for name, nanos in self.nanos.items()} if self.requests else {}
        )
        return {
            "requests": self.requests,
            "tokens": self.tokens,
            "cost": {name: decimal(nanos) for name, nanos in self.nanos.items()},
            "cost_per_request": each,
        }


def versions_json(snapshot: Snapshot, changes: Iterable[Change]) -> dict[str, Any]:
    """Every version tag with its figures and when it was seen; every change, oldest first, with those before and after."""
    figures = _figures(snapshot.totals)
    seen = _seen(snapshot.sightings)
    return {
        "taken": iso(snapshot.taken_s),
        "versions": [
            {**tag._asdict(), **_when(seen.get(tag.version)), **found.as_json()}
            for tag, found in sorted(figures.items())
        ],
        "changes": [_change(change, figures) for change in changes],
    }


def fixed_json(costs: Iterable[FixedCost], now_s: float, zone: ZoneInfo) -> list[dict[str, str]]:
    """What versions cost by the clock: per hour now, and this month until now."""
    month_s = month_around(now_s, zone)[0]
    return [
        {
            "upstream": cost.upstream,
            "version": cost.version,
            "item": cost.item,
            "usd_per_hour": decimal(cost.nanos_in_hour(now_s, zone)),
            "usd_this_month": decimal(cost.nanos_between(month_s, now_s, zone)),
        }
        for cost in costs
    ]


def _change(change: Change, figures: Mapping[Tag, Figures]) -> dict[str, Any]:
    def of(version: str) -> dict[str, Any]:
        return figures.get(Tag(change.upstream, version), Figures()).as_json()

    return {
        "kind": change.kind,
        "first_seen": iso(change.at_s),
        "upstream": change.upstream,
        "model": change.model,
        "fingerprint": change.fingerprint,
        "before": {"version": change.before, **of(change.before)},
        "after": {"version": change.after, **of(change.after)},
    }


def _figures(totals: Mapping[bytes, bytes]) -> dict[Tag, Figures]:
    found: dict[Tag, Figures] = defaultdict(Figures)
    for field, value in totals.items():
        family, labels = parse_field(field)
        if family == "requests_total":
            upstream, version, _model, _api, outcome = labels
            found[Tag(upstream, version)].requests += 0 if outcome in _NOT_ANSWERED else int(value)
        elif family == "tokens_total" or family in _COST:
            upstream, version, _model, kind, _source = labels
            one = found[Tag(upstream, version)]
            if family in _COST:
                one.nanos[_COST[family]] += int(value)
            elif kind in one.tokens:
                one.tokens[kind] += int(value)
    return found


def _seen(sightings: Mapping[bytes, bytes]) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for field, instants in sightings.items():
        version = msgspec.json.decode(field, type=tuple[str, str, str, str])[0]
        first, last = (float(instant) for instant in instants.split())
        known = found.get(version, (first, last))
        found[version] = (min(known[0], first), max(known[1], last))
    return found


def _when(seen: tuple[float, float] | None) -> dict[str, str]:
    return {"first_seen": iso(seen[0]), "last_seen": iso(seen[1])} if seen else {}


def iso(instant_s: float) -> str:
    """An instant as JSON shows it: UTC, to the millisecond."""
    return datetime.fromtimestamp(instant_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
