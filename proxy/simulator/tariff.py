"""Which band an instant falls into, and what tokens cost in it: the simulator's own truth, written from DeepSeek's page.

Pure, and deliberately not the proxy's tariff: two independent calculations that agree are worth more than one that is
used twice. Costs are whole nano-USD per kind, rounded half-even once per exchange; in between they are fractions.
"""

from datetime import UTC, datetime
from fractions import Fraction

import msgspec

from proxy.simulator.scenario import WEEKDAYS, Model, Prices, Scenario, usd, window_seconds
from proxy.usage import Band

NANOS_PER_TOKEN = 1000
"""A price of 1 USD per million tokens is 1,000 nano-USD per token."""


class Tokens(msgspec.Struct, frozen=True):
    """Tokens of one exchange. The four are disjoint: hit + miss is the prompt, reasoning + answer the completion."""

    hit: int = 0
    miss: int = 0
    reasoning: int = 0
    answer: int = 0

    @property
    def prompt(self) -> int:
        """Input tokens."""
        return self.hit + self.miss

    @property
    def completion(self) -> int:
        """Output tokens."""
        return self.reasoning + self.answer


Cost = tuple[int, int, int, int]
"""Nano-USD of hit, miss, reasoning and answer."""


class Bill(msgspec.Struct, frozen=True):
    """What an exchange costs. Both are None where the model has no price: that is not the same as nothing."""

    band: Band | None = None
    cost: Cost | None = None


class Tariff:
    """The prices of a scenario, ready to multiply."""

    def __init__(self, scenario: Scenario) -> None:
        self._windows = tuple(window_seconds(window) for window in scenario.peak.windows)
        self._peak = scenario.peak
        self._rates = {model.names[0]: _rates(model) for model in scenario.models}

    def __repr__(self) -> str:
        return f"Tariff({len(self._rates)} models, peak {self._peak.windows})"

    def bill(self, model: Model, tokens: Tokens, at_s: float) -> Bill:
        """What `tokens` cost when the exchange ends at `at_s` (seconds since the epoch)."""
        rates = self._rates[model.names[0]]
        if not rates:
            return Bill()
        band = Band.FLAT if Band.FLAT in rates else self.band(at_s)
        return Bill(band=band, cost=_cost(tokens, rates[band]))

    def band(self, at_s: float) -> Band:
        """Peak or off-peak at an instant. A window's first second is in it, its last named one is not."""
        moment = datetime.fromtimestamp(at_s, UTC)
        if WEEKDAYS[moment.weekday()] not in self._peak.weekdays or moment.date() in self._peak.holidays:
            return Band.OFF_PEAK
        second = moment.hour * 3600 + moment.minute * 60 + moment.second
        inside = any(begin <= second < end for begin, end in self._windows)
        return Band.PEAK if inside else Band.OFF_PEAK


Rates = tuple[Fraction, Fraction, Fraction]
"""USD per million tokens of hit, miss and output."""


def _rates(model: Model) -> dict[Band, Rates]:
    """The rates of a model per band; empty where it has no price, one flat rate where it has no off-peak price."""
    if model.prices is None:
        return {}
    peak = _fractions(model.prices)
    if model.off_peak is None:
        return {Band.FLAT: peak}
    return {Band.PEAK: peak, Band.OFF_PEAK: _off_peak(peak, model.off_peak)}


def _off_peak(peak: Rates, off_peak: Prices | str) -> Rates:
    """Off-peak rates: given as such, or as a factor on the peak ones."""
    if isinstance(off_peak, Prices):
        return _fractions(off_peak)
    factor = usd(off_peak)
    return (peak[0] * factor, peak[1] * factor, peak[2] * factor)


def _fractions(prices: Prices) -> Rates:
    return (usd(prices.hit), usd(prices.miss), usd(prices.output))


def _cost(tokens: Tokens, rates: Rates) -> Cost:
    """Whole nano-USD per kind. Python rounds a Fraction half-even."""
    hit, miss, output = rates
    return (
        round(tokens.hit * hit * NANOS_PER_TOKEN),
        round(tokens.miss * miss * NANOS_PER_TOKEN),
        round(tokens.reasoning * output * NANOS_PER_TOKEN),
        round(tokens.answer * output * NANOS_PER_TOKEN),
    )
