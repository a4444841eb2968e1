"""What the tokens of one exchange came to: tokens and a rate in, a `Charge` out.

Rule: each kind is rounded half-even to whole nano-units once, here; every total anywhere is a sum of these. Integers
only, because the sum over a billion records has to be exact and the same on every machine.
"""

from itertools import chain
from typing import Final

from proxy.pricing.calendar import HolidayCalendar
from proxy.pricing.catalog import Catalog
from proxy.pricing.tariff import DEEPSEEK, NO_HOLIDAYS, Rate, Seller, price_lists, rate_at
from proxy.usage import Charge, TokenUsage

MILLION: Final = 1_000_000
HALF: Final = MILLION // 2


def charge(usage: TokenUsage, rate: Rate) -> Charge:
    """What `usage` costs at `rate`, in nano-units of its currency.

    Where the band is unknown the higher price is charged, and `uncertain_nanos` is how much less the lower price,
    rounded in the same way, would have come to. It is never negative: the catalog refuses an off-peak price above peak.
    What the cache saved and the peak cost more are differences of the same kind.
    """
    prices = rate.nanos_per_million
    nanos = _parts(usage, prices)
    saved = rounded(usage.input_cache_hit * prices[1]) - nanos[0] if usage.input_cache_hit else 0
    return Charge(
        rate.currency,
        rate.price_id,
        rate.band,
        nanos,
        _more_than(nanos, usage, rate.lower_nanos_per_million),
        saved,
        _more_than(nanos, usage, rate.off_peak_nanos_per_million),
    )


def _more_than(nanos: tuple[int, int, int, int], usage: TokenUsage, lower: tuple[int, int, int, int] | None) -> int:
    return 0 if lower is None else sum(nanos) - sum(_parts(usage, lower))


def price_usage(
    catalog: Catalog,
    usage: TokenUsage,
    version: str,
    at_s: float,
    holidays: HolidayCalendar = NO_HOLIDAYS,
    *,
    model: str = "",
    seller: Seller = DEEPSEEK,
) -> tuple[Charge, ...]:
    """One charge for each currency in which `version`, asked for as `model`, has a price at the instant; none where it has no price."""
    lists = price_lists(catalog, version, seller)
    wanted = lists[0] if len(lists) == 1 else dict.fromkeys(chain(*lists))
    rates = (rate_at(catalog, version, currency, at_s, holidays, model=model, seller=seller) for currency in wanted)
    return tuple(charge(usage, rate) for rate in rates if rate is not None)


def _parts(usage: TokenUsage, prices: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    hit, miss, reasoning, answer = prices
    return (
        rounded(usage.input_cache_hit * hit),
        rounded(usage.input_cache_miss * miss),
        rounded(usage.output_reasoning * reasoning),
        rounded(usage.output_answer * answer),
    )


def rounded(millionths: int) -> int:
    """Millionths of a nano-unit as whole nano-units, half to even."""
    whole, rest = divmod(millionths, MILLION)
    return whole + (rest > HALF or (rest == HALF and whole & 1))
