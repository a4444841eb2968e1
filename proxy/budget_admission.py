"""The admission by budgets of one worker, put together: its budgets, its prices, and where it reserves."""

import time
from collections.abc import Callable
from typing import Final

from proxy.gateway.admission import Admission, Candidate, Prices
from proxy.gateway.likely import Likely
from proxy.gateway.recording import Pricing
from proxy.ledger.ledger import Ledger
from proxy.ledger.store import Store
from proxy.pricing.budgets import budgets_of
from proxy.pricing.tariff import dearest_prices
from proxy.settings import Settings

LATE_S: Final = 10.0
"""By how much an exchange may outlast its upstream's total timeout: it is asked for a little before, and limits are kept late."""


def span_of(instant: str, start_s: float, now_s: float, total_timeout_s: float) -> tuple[float, float]:
    """From when to when the instant may lie that decides the price of an exchange which is about to be sent.

    Its end lies before us. Its start does not: the head was read then, and the body may have taken minutes to come.
    """
    return (start_s, start_s) if instant == "start" else (now_s, now_s + total_timeout_s + LATE_S)


def admission_of(
    settings: Settings,
    store: Store,
    ledger: Ledger,
    *,
    journal_id: str,
    pricing: Callable[[], Pricing],
    likely: Callable[[str, str], Likely],
) -> Admission | None:
    """None where no budget refuses: then nothing is asked."""
    refusing = [budget for budget in budgets_of(settings) if budget.refuses]
    if not refusing:
        return None

    def prices(candidate: Candidate, currency: str, *, dearest: bool) -> Prices | None:
        """What tokens cost an exchange that begins now: at this moment, or at the dearest before it has to end."""
        total_s = settings.all_upstreams()[candidate.upstream].total_timeout_seconds
        now_s, current = time.time(), pricing()
        first_s, last_s = span_of(current.instant, candidate.start_s, now_s, total_s)
        return dearest_prices(
            current.catalog,
            candidate.whose.version,
            currency,
            (first_s, last_s if dearest else first_s),
            current.holidays,
            model=candidate.request.model,
            seller=current.seller(candidate.upstream),
        )

    return Admission(
        refusing,
        store,
        ledger.holds,
        journal_id,
        prices=prices,
        likely=likely,
        wall_s=time.time,
        fault=ledger.fault,
    )
