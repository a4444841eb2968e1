"""What a simulated DeepSeek looks like: models, prices, sizes, speeds and mishaps, read from a TOML text.

Only data and its checks live here. Nothing is drawn, priced or sent; a file is read in one place, `default_scenario`,
and that one ships with the package. Money is a decimal string of USD, shares are between 0 and 1, times are seconds.
"""

import tomllib
from datetime import date, time
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from importlib import resources
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proxy.errors import SettingsError

Share = Annotated[float, Meta(ge=0, le=1)]
Count = Annotated[int, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]
Status = Literal["400", "401", "402", "422", "429", "500", "503"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
"""In the order of `datetime.weekday()`."""


def usd(text: str) -> Fraction:
    """An amount of USD, exactly. Raises ValueError for what is no plain decimal number of at least 0."""
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal(-1)
    if not amount.is_finite() or amount < 0:
        raise ValueError(f'expected a decimal number >= 0 as a string, like "0.30", got {text!r}')
    return Fraction(amount)


def window_seconds(window: str) -> tuple[int, int]:
    """First second of the day inside a window and first one after it; "22:00-24:00" ends at midnight."""
    try:
        first, last = window.split("-")
        begin, end = _second_of_day(first), _second_of_day(last)
    except ValueError:
        begin, end = 0, 0
    if begin >= end:
        raise ValueError(f'expected a window like "01:00-04:00" in UTC, got {window!r}')
    return begin, end


def _second_of_day(text: str) -> int:
    if text == "24:00":
        return 24 * 3600
    clock = time.fromisoformat(text)
    return clock.hour * 3600 + clock.minute * 60


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of the file. A misspelt key is an error: a demo that silently ignores it shows something else."""


class Spread(_Table, frozen=True):
    """A quantity that varies: even between `min` and `max`, or log-normal with `median` and `sigma`, cut to both."""

    max: Annotated[float, Meta(ge=0)]
    min: Annotated[float, Meta(ge=0)] = 0.0
    median: Annotated[float, Meta(gt=0)] | None = None
    sigma: Annotated[float, Meta(ge=0)] = 0.5

    def __post_init__(self) -> None:
        """Refuses bounds the wrong way round."""
        if self.min > self.max:
            raise ValueError(f"expected min <= max, got {self.min} and {self.max}")


Amount = Annotated[float, Meta(ge=0)] | Spread


class Prices(_Table, frozen=True):
    """USD per million tokens of input cache hits, input cache misses and output (reasoning costs what answers do)."""

    hit: str
    miss: str
    output: str

    def __post_init__(self) -> None:
        """Refuses what is no decimal number of USD."""
        for price in (self.hit, self.miss, self.output):
            usd(price)


class Model(_Table, frozen=True):
    """What answers to `names`. Without `prices` it must say `unpriced = true`: a forgotten price is no gift."""

    names: Annotated[tuple[Name, ...], Meta(min_length=1)]
    served: Name
    fingerprint: str = ""
    thinking: bool = True
    listed: bool = True
    unpriced: bool = False
    prices: Prices | None = None
    off_peak: Prices | str | None = None
    prompt_tokens: Amount = 600.0
    cache_hit_share: Amount = 0.5
    cache_block: Annotated[int, Meta(ge=1)] = 128
    reasoning_tokens: Amount = 120.0
    answer_tokens: Amount = 80.0
    tool_call_share: Share = 0.0
    first_delta_seconds: Amount = 0.0
    delta_seconds: Amount = 0.0

    def __post_init__(self) -> None:
        """Refuses a model that is neither priced nor said to be unpriced, and an off-peak price that is none."""
        if (self.prices is None) != self.unpriced:
            raise ValueError("expected either `prices` or `unpriced = true`")
        if isinstance(self.off_peak, str):
            usd(self.off_peak)


class Peak(_Table, frozen=True):
    """When peak prices hold, in UTC: `windows` like "01:00-04:00" on `weekdays` that are not `holidays`."""

    windows: tuple[str, ...] = ()
    weekdays: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri")
    holidays: frozenset[date] = frozenset()

    def __post_init__(self) -> None:
        """Refuses a window that is none."""
        for window in self.windows:
            window_seconds(window)


class KeepAlive(_Table, frozen=True):
    """How often an answer begins with a sign of life: a comment in a stream, an empty line before a JSON body."""

    stream_share: Share = 0.0
    body_share: Share = 0.0
    interval_seconds: Annotated[float, Meta(ge=0)] = 0.0
    most: Annotated[int, Meta(ge=1)] = 3


class Mishaps(_Table, frozen=True):
    """How often exchanges go wrong. All shares together are at most 1; what is left goes well."""

    errors: dict[Status, Share] = {}
    stall_share: Share = 0.0
    stall_seconds: Annotated[float, Meta(ge=0)] = 900.0
    break_share: Share = 0.0

    def __post_init__(self) -> None:
        """Refuses more mishaps than exchanges."""
        total = sum(self.errors.values()) + self.stall_share + self.break_share
        if total > 1:
            raise ValueError(f"expected shares that add up to at most 1, got {total}")


class Balance(_Table, frozen=True):
    """What the account holds in USD. Granted money goes first. `refuse_when_empty` answers 402 once it is spent."""

    granted: str = "0.00"
    topped_up: str = "5000.00"
    refuse_when_empty: bool = True

    def __post_init__(self) -> None:
        """Refuses what is no decimal number of USD."""
        usd(self.granted)
        usd(self.topped_up)


class Swap(_Table, frozen=True):
    """A silent change: from then on `model` (as requested) is served by something else under the same name.

    It happens at exchange number `after_exchanges` of the simulator or `after_seconds` after its start. What answers then
    reasons `reasoning_factor` times as much.
    """

    model: Name
    fingerprint: str
    served: str = ""
    reasoning_factor: Annotated[float, Meta(gt=0)] = 1.0
    after_exchanges: Count | None = None
    after_seconds: Annotated[float, Meta(ge=0)] | None = None

    def __post_init__(self) -> None:
        """Refuses a swap without its moment, or with two."""
        if (self.after_exchanges is None) == (self.after_seconds is None):
            raise ValueError("expected exactly one of `after_exchanges` and `after_seconds`")


class Scenario(_Table, frozen=True):
    """A whole simulated API. Frozen, so that every number an exchange shows follows from it and a counter."""

    models: Annotated[tuple[Model, ...], Meta(min_length=1)]
    seed: int = 1
    retired: tuple[str, ...] = ()
    peak: Peak = Peak()
    keep_alive: KeepAlive = KeepAlive()
    mishaps: Mishaps = Mishaps()
    balance: Balance = Balance()
    swaps: tuple[Swap, ...] = ()

    def __post_init__(self) -> None:
        """Refuses a name that two models answer to, and a swap of a model that is not there."""
        names = [name for model in self.models for name in model.names]
        for name in names:
            if names.count(name) > 1 or name in self.retired:
                raise ValueError(f"expected one meaning of the name {name!r}, got two")
        for swap in self.swaps:
            if swap.model not in names:
                raise ValueError(f"expected swaps of known models, got {swap.model!r}")

    def model(self, name: str) -> Model | None:
        """The model that answers to `name`, or None."""
        return next((model for model in self.models if name in model.names), None)

    def listed(self) -> tuple[str, ...]:
        """The names `/models` and the refusal of a wrong one speak of: the first of each listed model."""
        return tuple(model.names[0] for model in self.models if model.listed)


def parse_scenario(text: str, name: str) -> Scenario:
    """The scenario in a TOML `text`. Raises SettingsError with `name`, the key and what was expected there."""
    try:
        return msgspec.convert(tomllib.loads(text), Scenario)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name}: not valid TOML: {error}") from error
    except msgspec.ValidationError as error:
        raise SettingsError(f"{name}: {_readable(error)}") from error


def default_scenario() -> Scenario:
    """The built-in scenario: DeepSeek's models and prices of November 2026, beside this file as `default.toml`."""
    text = resources.files(__package__).joinpath("default.toml").read_text(encoding="utf-8")
    return parse_scenario(text, "default.toml")


def _readable(error: msgspec.ValidationError) -> str:
    """`[models[...].prices] hit: Expected …` out of msgspec's message, which ends with a path."""
    message, _, path = str(error).partition(" - at `")
    place = path.rstrip("`").removeprefix("$").lstrip(".")
    return f"{place}: {message}" if place else message
