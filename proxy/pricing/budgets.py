"""Budgets: whom one is for, which span of time it counts, and what an exchange takes of it. Pure.

A budget counts in *buckets*, each known by its start: a calendar period is one bucket, a rolling window is the sum of its last
`ROLLING_BUCKETS` and the one that has begun. What an exchange takes stays in the bucket it was reserved in, so that one that
runs past midnight belongs to the day that let it in.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from proxy.errors import SettingsError
from proxy.pricing.revisions import base_of
from proxy.settings import BudgetSettings, Settings
from proxy.usage import Charge, Outcome, Purpose, Share

ROLLING_BUCKETS: Final = 60
NANO: Final = 1_000_000_000
HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
_PERIOD: Final = "month"
"""Of a budget that says neither a period nor a rolling length."""

_KEPT_S: Final = {"hour": 14 * DAY_S, "day": 400 * DAY_S, "week": 800 * DAY_S, "month": 4000 * DAY_S}


def budgets_of(settings: Settings) -> "tuple[Budget, ...]":
    """The budgets of the settings, in their order. Raises SettingsError for a time zone that is none."""
    return tuple(_budget(one, settings) for one in settings.budgets)


class Whose(NamedTuple):
    """What decides which budgets an exchange counts in.

    `payer` is told by the key alone, `app` may be the client's word, `named` are the budgets that the client's key names.
    """

    payer: str
    app: str
    version: str
    model: str
    purpose: str
    named: tuple[str, ...] = ()


class Span(NamedTuple):
    """A stretch of time in seconds since the epoch, the end not in it."""

    start_s: int
    end_s: int


class Budget(msgspec.Struct, frozen=True):
    """One budget. `limit_nanos` of `currency` per `period` in a time zone, or within the last `rolling_s` seconds.

    The patterns may hold `*` and `?`; a version is meant with all its revisions. `refuses`: its limit is held before an
    exchange begins; else it is only shown. `for_keys`: it counts only the exchanges of client keys that name it. `worst_case`: what is reserved is the most an exchange can cost.
    """

    name: str
    limit_nanos: int
    currency: str
    period: str = _PERIOD
    zone: str = "UTC"
    rolling_s: int = 0
    app: str = "*"
    version: str = "*"
    model: str = "*"
    purpose: str = "*"
    for_keys: bool = False
    refuses: bool = False
    worst_case: bool = False
    allows_without_store: bool = True

    @property
    def width_s(self) -> int:
        """Width of a rolling budget's buckets; 0 for a calendar period."""
        return -(-self.rolling_s // ROLLING_BUCKETS) if self.rolling_s else 0

    def is_for(self, whose: Whose) -> bool:
        """True where an exchange counts in this budget. One that refuses goes by the key: a header would be no control."""
        if self.for_keys and self.name not in whose.named:
            return False
        asker = whose.payer if self.refuses else whose.app
        return (
            _fits(asker, self.app)
            and _fits(base_of(whose.version), self.version)
            and _fits(whose.model, self.model)
            and _fits(whose.purpose, self.purpose)
        )

    def bucket_at(self, at_s: float) -> Span:
        """The bucket of an instant."""
        if self.rolling_s:
            start = int(at_s) // self.width_s * self.width_s
            return Span(start, start + self.width_s)
        return calendar_period(self.period, at_s, ZoneInfo(self.zone))

    def window_at(self, at_s: float) -> Span:
        """From the first bucket that counts at an instant to the end of what is counted together."""
        bucket = self.bucket_at(at_s)
        return Span(bucket.start_s - ROLLING_BUCKETS * self.width_s, bucket.end_s) if self.rolling_s else bucket

    def edges_around(self, at_s: float) -> tuple[int, ...]:
        """Starts of the calendar periods around an instant, oldest first: Redis' clock picks one of them."""
        now = self.bucket_at(at_s)
        before, after = self.bucket_at(now.start_s - 1), self.bucket_at(now.end_s)
        return (before.start_s, now.start_s, now.end_s, after.end_s)

    def kept_from_s(self, at_s: float) -> int:
        """Buckets that begin before this are of no use any more."""
        return int(at_s) - (3 * self.rolling_s if self.rolling_s else _KEPT_S[self.period])


def leaves_out_a_purpose(pattern: str) -> bool:
    """True where an exchange escapes the pattern of a budget by stating another purpose."""
    return not all(_fits(purpose, pattern) for purpose in Purpose)


def _fits(name: str, pattern: str) -> bool:
    """`*` and `?` stand for others; a bracket, which names may hold, for itself."""
    return pattern == "*" or fnmatchcase(name, pattern.replace("[", "[[]"))


def _budget(one: BudgetSettings, settings: Settings) -> Budget:
    zone = one.time_zone or settings.console.time_zone
    try:
        ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:
        problem = f"expected an IANA name such as Asia/Shanghai, got {zone!r}"
        raise SettingsError(f"[[budgets]] {one.name}: time_zone: {problem}") from error
    if not any(fnmatchcase(purpose, one.purpose) for purpose in Purpose):
        problem = f"expected a pattern for {', '.join(Purpose)}; got {one.purpose!r}"
        raise SettingsError(f"[[budgets]] {one.name}: purpose: {problem}")
    return Budget(
        name=one.name,
        limit_nanos=round(one.limit * NANO),
        currency=settings.pricing.billing_currency,
        period=one.period or _PERIOD,
        zone=zone,
        rolling_s=0 if one.rolling_hours is None else round(one.rolling_hours * HOUR_S),
        app=one.app,
        version=one.version,
        model=one.model,
        purpose=one.purpose,
        for_keys=one.for_keys,
        refuses=one.action == "refuse",
        worst_case=one.reserve == "worst_case",
        allows_without_store=one.on_store_down == "allow",
    )


def calendar_period(period: str, at_s: float, zone: ZoneInfo) -> Span:
    """The hour, day, week (from Monday) or month of an instant, as a clock on the wall of the zone has it."""
    second = int(
        at_s
    )  # by whole seconds: `fromtimestamp` rounds, and would show the last microsecond as the next period
    local = datetime.fromtimestamp(second, zone)
    if period == "hour":  # by the instant: an hour that the clock shows twice is two
        start_s = second - local.minute * 60 - local.second
        return Span(start_s, start_s + HOUR_S)
    start = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    if period == "week":
        start -= timedelta(days=start.weekday())
    elif period == "month":
        start = start.replace(day=1)
    days = {"day": 1, "week": 7, "month": 32}[period]
    end = start + timedelta(days=days)
    if period == "month":
        end = end.replace(day=1)
    return Span(int(start.timestamp()), int(end.timestamp()))


def shares(
    budgets: Iterable[Budget],
    whose: Whose,
    at_s: float,
    reserved: Iterable[Share],
    *,
    charges: tuple[Charge, ...],
    outcome: Outcome,
) -> tuple[Share, ...]:
    """What an exchange takes of each budget it counts in: in the bucket it was reserved in, else in that of the instant.

    One that was interrupted may have cost all that was reserved for it, so it keeps at least that, whatever it is taken for now.
    """
    held = {share.budget: share for share in reserved}
    interrupted = outcome is Outcome.INTERRUPTED
    found = []
    for budget in budgets:
        counts = budget.is_for(whose)
        if not counts and not (interrupted and budget.name in held):
            continue
        share = held.get(budget.name) or Share(budget.name, budget.bucket_at(at_s).start_s)
        cost = sum(charge.total_nanos for charge in charges if charge.currency == budget.currency) if counts else 0
        least = share.reserved_nanos if interrupted else 0
        found.append(msgspec.structs.replace(share, taken_nanos=max(cost, least)))
    return tuple(found)
