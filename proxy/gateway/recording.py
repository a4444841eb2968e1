"""From what was seen of an exchange to its one record: plain values in, a `UsageRecord` out."""

from collections.abc import Mapping
from datetime import date
from enum import Enum
from typing import Final, Protocol

import msgspec

from proxy.metering.estimation import estimate, needs_division, rough
from proxy.metering.reading import Reading
from proxy.metering.request import RequestFacts
from proxy.pricing.budgets import Budget, Whose, shares
from proxy.pricing.catalog import Catalog
from proxy.pricing.cost import price_usage
from proxy.pricing.tariff import DEEPSEEK, Seller
from proxy.pricing.versions import NO_ROUTES, Resolution, Routes, mismatch, resolve
from proxy.usage import (
    METERED_APIS,
    BegunMark,
    Charge,
    How,
    Missing,
    Outcome,
    Purpose,
    Share,
    Source,
    TokenUsage,
    UsageRecord,
    clean_label,
)

_BROKEN_OFF: Final = frozenset(
    {Outcome.CLIENT_DISCONNECTED, Outcome.UPSTREAM_DISCONNECTED, Outcome.TIMED_OUT, Outcome.INTERRUPTED}
)


_OF_HALF_A_DOCUMENT: Final = frozenset({None, Missing.UNREADABLE_BODY, Missing.BROKEN_USAGE})

NO_MODEL: Final = "none"
NO_VERSION: Final = "none"
"""Labels of an exchange that asks no model (`/models`, `/user/balance`), or whose model could not be read."""


class ExchangeFacts(msgspec.Struct, frozen=True):
    """What the relay knows of an exchange at its end.

    `sent` is False where the upstream never saw the request; `answered` is True where `status` is the upstream's own. `payer` is
    who asks, by the key alone, `named` are the budgets its key names; `reserved` is what was reserved, `is_reserved` says that something was, or may have been, and
    `refused_by` names the budget that turned the exchange away.
    """

    exchange_id: str
    request: RequestFacts
    upstream: str
    app: str
    purpose: Purpose
    expected_version: str
    outcome: Outcome
    status: int
    sent: bool
    answered: bool
    start_s: float
    end_s: float
    duration_s: float
    first_chunk_s: float
    first_chunk_after_s: float
    payer: str = ""
    named: tuple[str, ...] = ()
    reserved: tuple[Share, ...] = ()
    is_reserved: bool = False
    refused_by: str = ""


class Pricing(msgspec.Struct, frozen=True):
    """What is needed to tell the version of an exchange, its price, and the budgets it counts in."""

    catalog: Catalog
    instant: str = "end"
    holidays: Mapping[int, frozenset[date]] = {}
    routes: Routes = NO_ROUTES
    sellers: Mapping[str, Seller] = {}
    budgets: tuple[Budget, ...] = ()

    def seller(self, upstream: str) -> Seller:
        """Whose prices hold for an upstream; DeepSeek's for one that nobody described."""
        return self.sellers.get(upstream, DEEPSEEK)


class _Counts(msgspec.Struct, frozen=True):
    source: Source
    usage: TokenUsage | None = None
    missing: Missing | None = None


class Need(Enum):
    """What has to be counted before a record can be made."""

    NOTHING = 0
    DIVISION = 1  # how much of a reported completion was reasoning
    ESTIMATE = 2


class RecordMaker(Protocol):
    """Makes the record of an exchange, given what was counted for it, if anything."""

    def __call__(self, facts: ExchangeFacts, reading: Reading | None, counted: TokenUsage | None = None) -> UsageRecord:
        """`make_record`, with its pricing."""


def need_of(facts: ExchangeFacts, reading: Reading | None) -> Need:
    """What has to be counted for this exchange."""
    seen = reading or Reading()
    if seen.report is not None:
        return Need.DIVISION if needs_division(seen) else Need.NOTHING
    return Need.ESTIMATE if _is_metered(facts) and _may_have_cost(facts) else Need.NOTHING


def make_record(
    facts: ExchangeFacts, reading: Reading | None, counted: TokenUsage | None = None, *, pricing: Pricing
) -> UsageRecord:
    """The record of an exchange. `reading` is None where nothing was metered.

    `counted` is what our own count made of it: the estimate, or the reported usage with its completion divided.
    """
    seen = reading or Reading()
    counts = _counts(facts, seen, counted)
    instant_s = facts.end_s if pricing.instant == "end" else facts.start_s
    version = version_of(facts, seen, pricing)
    charges = _charges(pricing, counts.usage, version.version, instant_s, facts)
    report = seen.report
    return UsageRecord(
        exchange_id=facts.exchange_id,
        api=facts.request.api,
        upstream=facts.upstream,
        model=facts.request.model or NO_MODEL,
        version=version.version,
        how=version.how,
        outcome=facts.outcome,
        source=counts.source,
        app=facts.app,
        purpose=facts.purpose,
        start_s=facts.start_s,
        end_s=facts.end_s,
        duration_s=facts.duration_s,
        served_model=clean_label(seen.served_model),
        fingerprint=clean_label(seen.fingerprint),
        expected_version=facts.expected_version,
        version_mismatch=_mismatch(facts, version, pricing),
        status=facts.status,
        finish_reason=clean_label(seen.finish_reason),
        streamed=seen.streamed or facts.request.streamed,
        usage=counts.usage,
        missing=counts.missing,
        violations=report.violations if report else (),
        reported_usage=report.literal if report else seen.spoilt,
        reasoning_counted=report is not None and counted is not None,
        charges=charges,
        pricing_instant_s=instant_s,
        first_chunk_s=facts.first_chunk_s,
        first_chunk_after_s=facts.first_chunk_after_s,
        shares=_shares(facts, version.version, instant_s, charges, pricing),
        is_reserved=facts.is_reserved,
        refused_by=facts.refused_by,
    )


def interrupted_record(mark: BegunMark, end_s: float, pricing: Pricing) -> UsageRecord:
    """The record of an exchange that was open when its worker died: its prompt by size, its output unknown."""
    facts = ExchangeFacts(
        exchange_id=mark.exchange_id,
        request=RequestFacts(mark.api, mark.model, mark.streamed, mark.body_bytes),
        upstream=mark.upstream,
        app=mark.app,
        purpose=mark.purpose,
        expected_version=mark.expected_version,
        outcome=Outcome.INTERRUPTED,
        status=0,
        sent=True,
        answered=False,
        start_s=mark.start_s,
        end_s=end_s,
        duration_s=end_s - mark.start_s,
        first_chunk_s=0.0,
        first_chunk_after_s=0.0,
        payer=mark.payer or mark.app,
        named=mark.budgets,
        reserved=mark.reserved,
        is_reserved=bool(mark.reserved),
    )
    return make_record(facts, None, pricing=pricing)


def version_of(facts: ExchangeFacts, seen: Reading, pricing: Pricing) -> Resolution:
    """Which version answered; `none` where no model was asked for anything."""
    if not _is_metered(facts):
        return Resolution(NO_VERSION, How.UNKNOWN)
    return resolve(
        pricing.catalog,
        upstream=facts.upstream,
        requested=facts.request.model,
        served=seen.served_model,
        fingerprint=seen.fingerprint,
        at_s=facts.start_s,
        api=facts.request.api,
        routes=pricing.routes,
    )


def _mismatch(facts: ExchangeFacts, version: Resolution, pricing: Pricing) -> str:
    """Only an answer can be another one than expected: not an error, and not a request that went nowhere."""
    answered = _is_metered(facts) and facts.answered and facts.status < 400
    return mismatch(pricing.catalog, facts.expected_version, version.version) if answered else ""


def _counts(facts: ExchangeFacts, seen: Reading, counted: TokenUsage | None) -> _Counts:
    """Reported where the provider reported; else an estimate where something may have been billed; else nothing."""
    if seen.report is not None:
        return _Counts(Source.REPORTED, counted or seen.report.usage)
    if need_of(facts, seen) is Need.NOTHING:
        return _Counts(Source.NONE)
    usage = counted or estimate(seen, rough(seen, facts.request.body_bytes), one_token_deltas=True).usage
    return _Counts(Source.ESTIMATED, usage, _missing(facts.outcome, seen.fault))


def _is_metered(facts: ExchangeFacts) -> bool:
    return facts.request.api in METERED_APIS


def _missing(outcome: Outcome, fault: Missing | None) -> Missing:
    """Why there is no report. Half a document at the end of a body that broke off is no fault of the document."""
    if outcome in _BROKEN_OFF and fault in _OF_HALF_A_DOCUMENT:
        return Missing.INTERRUPTED if outcome is Outcome.INTERRUPTED else Missing.DISCONNECTED
    return fault or Missing.NOT_REPORTED


def _may_have_cost(facts: ExchangeFacts) -> bool:
    """An exchange the upstream refused, or never saw, costs nothing (DeepSeek bills successful requests)."""
    return facts.sent and (facts.status < 400 or not facts.answered) and facts.outcome is not Outcome.REFUSED


def _shares(
    facts: ExchangeFacts, version: str, instant_s: float, charges: tuple[Charge, ...], pricing: Pricing
) -> tuple[Share, ...]:
    """What the exchange takes of budgets; what costs nothing, and was not let down in the middle, takes nothing."""
    reserved = facts.reserved if facts.sent else ()  # what never left us cannot have cost anything
    if not pricing.budgets or not (charges or reserved):
        return ()
    whose = Whose(facts.payer, facts.app, version, facts.request.model, facts.purpose.value, facts.named)
    return shares(pricing.budgets, whose, instant_s, reserved, charges=charges, outcome=facts.outcome)


def _charges(
    pricing: Pricing, usage: TokenUsage | None, version: str, instant_s: float, facts: ExchangeFacts
) -> tuple[Charge, ...]:
    if usage is None:
        return ()
    model, seller = facts.request.model, pricing.seller(facts.upstream)
    return price_usage(pricing.catalog, usage, version, instant_s, pricing.holidays, model=model, seller=seller)
