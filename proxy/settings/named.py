"""Settings of which there is one per name: of versions, apps and budgets. They have no environment variables."""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from proxy.settings.section import Count, Seconds, Section


class FixedCostSettings(Section, frozen=True):
    """A cost by the clock: so many dollars per hour or per month, times `count` (of GPUs, of people's hours)."""

    usd_per_hour: Annotated[float, Meta(ge=0)] | None = None
    usd_per_month: Annotated[float, Meta(ge=0)] | None = None
    count: Annotated[float, Meta(gt=0)] = 1.0

    def __post_init__(self) -> None:
        """Refuses (ValueError) none of the two, and both."""
        if (self.usd_per_hour is None) == (self.usd_per_month is None):
            raise ValueError("expected one of usd_per_hour and usd_per_month")


class FixedSettings(Section, frozen=True):
    """What a version costs by the clock: `[versions.X.fixed]`. `upstream` is where it runs, if that is not told by a route."""

    ITEMS: ClassVar[tuple[str, ...]] = ("gpu", "storage", "upkeep", "validation")

    upstream: str = ""
    gpu: FixedCostSettings | None = None
    storage: FixedCostSettings | None = None
    upkeep: FixedCostSettings | None = None
    validation: FixedCostSettings | None = None


class VersionSettings(Section, frozen=True):
    """What an operator sets for one version: `[versions."DeepSeek-V4-Pro-0813"]`. Has no environment variable."""

    spend_limit_usd_per_hour: Annotated[float, Meta(gt=0)] | None = None
    fixed: FixedSettings | None = None


class AppSettings(Section, frozen=True):
    """What an operator sets for one app: `[apps.NAME]`; what is left out is the upstream's. Has no environment variable.

    `keys` are the `key-` names under which this app's own API keys were counted: they are this app from now on.
    """

    keys: tuple[Annotated[str, Meta(pattern="^key-[0-9a-f]{10}$")], ...] = ()
    on_client_disconnect: Literal["abort", "drain"] | None = None
    drain_seconds: Seconds | None = None
    drain_tokens: Count | None = None


class BudgetSettings(Section, frozen=True):
    """A budget, `[[budgets]]`: so much money of `[pricing] billing_currency` per period, for whom the patterns say.

    `rolling_hours` takes the place of the calendar `period`; without either it is the month. `for_keys` counts only the exchanges of client keys that name
    the budget. `action = "refuse"` holds the limit before an exchange begins, `alert` only
    shows it. `reserve` says what is held back for an exchange under way: what it is likely to cost, or the most it can. `on_store_down`
    says what becomes of exchanges whose budget cannot be asked for.
    """

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    limit: Annotated[float, Meta(gt=0, le=1_000_000)]
    period: Literal["hour", "day", "week", "month"] | None = None
    time_zone: str = ""
    rolling_hours: Annotated[float, Meta(ge=1 / 60, le=24 * 90)] | None = None
    app: Annotated[str, Meta(min_length=1, max_length=128)] = "*"
    version: Annotated[str, Meta(pattern=r"^[^+]{1,128}$")] = "*"
    model: Annotated[str, Meta(min_length=1, max_length=128)] = "*"
    purpose: Annotated[str, Meta(min_length=1, max_length=128)] = "*"
    for_keys: bool = False
    action: Literal["refuse", "alert"] = "alert"
    reserve: Literal["likely", "worst_case"] = "likely"
    on_store_down: Literal["allow", "refuse"] = "allow"
