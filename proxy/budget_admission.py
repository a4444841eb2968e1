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
        return dearest_prices(
            current.catalog,
            candidate.whose.version,
            currency,
            (now_s, now_s + total_s + LATE_S if dearest else now_s),
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
