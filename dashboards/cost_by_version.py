"""The dashboard *Cost by version*: what each version costs, what drives it, what could be saved, what is not known."""

from drawing import (
    ANSWERED,
    APP,
    INPUT,
    JOB,
    METERED,
    MODEL,
    MONTH,
    OUTPUT,
    TODAY,
    VERSION,
    Board,
    Column,
    Table,
    View,
    bars,
    in_range,
    lines,
    number,
    per_second,
    ratio,
    recorded,
    stacked,
    state,
)

PER_HOUR_3D = 'version:deepseek_meter_cost_usd_per_hour:rate3d{job=~"$job", version=~"$version"}'
HOURS_LEFT = "24 * (days_in_month() - day_of_month() + 1) - hour() - minute() / 60"

SPEND = (
    View(
        title="Spend rate (USD per hour)",
        description="What each version costs per hour at the moment. The areas add up to the whole.",
        unit="currencyUSD",
        query=f"3600 * {per_second('cost_usd_total', by='version')}",
        legend="{{version}}",
        draw=stacked,
        width=12,
        alert="DeepseekMeterVersionSpendAboveLimit",
    ),
    View(
        title="Spend today",
        description="Exact spend since midnight in the console's time zone, from the ledger; the model filter has no effect.",
        unit="currencyUSD",
        query=f"sum by (version) ({recorded('spend_usd', TODAY)})",
        legend="{{version}}",
        draw=bars,
        width=4,
    ),
    View(
        title="Spend this month",
        description="Exact spend since the first of the month in the console's time zone, from the ledger; the model filter has no effect.",
        unit="currencyUSD",
        query=f"sum by (version) ({recorded('spend_usd', MONTH)})",
        legend="{{version}}",
        draw=bars,
        width=4,
    ),
    View(
        title="Forecast of the month",
        description="The spend of this month so far, and what is left of it (by UTC's calendar) at the rate of the last three days.",
        unit="currencyUSD",
        query=f"sum by (version) ({recorded('spend_usd', MONTH)})\n"
        f"+ sum by (version) ({PER_HOUR_3D}) * scalar({HOURS_LEFT})",
        legend="{{version}}",
        draw=bars,
        width=4,
    ),
    View(
        title="Cost per request",
        description="Mean cost of an exchange that used the model. Refused ones and upstream errors cost nothing and are not in the divisor.",
        unit="currencyUSD",
        query=ratio(
            per_second("cost_usd_total", by="version"), per_second("requests_total", METERED, ANSWERED, by="version")
        ),
        legend="{{version}}",
        draw=lines,
        width=12,
        alert="DeepseekMeterCostPerRequestUp",
    ),
    View(
        title="Spend rate by app (USD per hour)",
        description="Who causes the spend, by the app's name or the keyed hash of its key; the model filter has no effect.",
        unit="currencyUSD",
        query=f"3600 * {per_second('app_cost_usd_total', by='app')}",
        legend="{{app}}",
        draw=stacked,
        width=12,
    ),
)

DRIVERS = (
    View(
        title="Tokens by kind (per second)",
        description="The four kinds are disjoint: hit and miss make the prompt, reasoning and answer the completion.",
        unit="si:tokens/s",
        query=per_second("tokens_total", by="kind"),
        legend="{{kind}}",
        draw=stacked,
        width=12,
    ),
    View(
        title="Requests by outcome (per second)",
        description="How exchanges ended, those of all paths included.",
        unit="reqps",
        query=per_second("requests_total", by="outcome"),
        legend="{{outcome}}",
        draw=stacked,
        width=12,
    ),
    View(
        title="Reasoning share",
        description="Reasoning tokens as a share of all output tokens. They are billed like answers.",
        unit="percentunit",
        query=ratio(
            per_second("tokens_total", 'kind="output_reasoning"', by="version"),
            per_second("tokens_total", OUTPUT, by="version"),
        ),
        legend="{{version}}",
        draw=lines,
        width=12,
        alert="DeepseekMeterReasoningShareUp",
    ),
    View(
        title="Cache hit ratio",
        description="Input tokens the provider found in its prompt cache, as a share of all input tokens. A fall makes the same traffic dearer.",
        unit="percentunit",
        query=ratio(
            per_second("tokens_total", 'kind="input_cache_hit"', by="version"),
            per_second("tokens_total", INPUT, by="version"),
        ),
        legend="{{version}}",
        draw=lines,
        width=12,
    ),
)

TRUST = (
    View(
        title="Tokens without a price (per second)",
        description="Tokens that no price sheet covers. They are missing from every cost above; it should be empty or 0.",
        unit="si:tokens/s",
        query=per_second("unpriced_tokens_total", by="version, currency"),
        legend="{{version}} {{currency}}",
        draw=lines,
        width=10,
        alert="DeepseekMeterVersionTokensUnpriced",
    ),
    View(
        title="Requests without usage (per second)",
        description="Exchanges for which the provider reported no token counts, by reason. Their tokens are estimated or unknown.",
        unit="reqps",
        query=per_second("requests_without_usage_total", by="version, reason"),
        legend="{{version}} {{reason}}",
        draw=lines,
        width=10,
        alert="DeepseekMeterWithoutUsage",
    ),
    View(
        title="Store reachable",
        description="Whether every replica reaches its store. If one does not, the figures above may be too low.",
        unit="bool_yes_no",
        query=f"min by (job) ({recorded('store_up', how='min')})",
        legend="{{job}}",
        draw=state,
        width=4,
        alert="DeepseekMeterStoreDown",
    ),
)

SAVINGS = (
    View(
        title="Saved by the cache (USD per hour)",
        description="What cache hits would have cost more as misses.",
        unit="currencyUSD",
        query=f"3600 * {per_second('cache_savings_usd_total', by='version')}",
        legend="{{version}}",
        draw=stacked,
    ),
    View(
        title="Charged for peak hours (USD per hour)",
        description="What was charged more than the same tokens cost off-peak: what moving them to another hour would save.",
        unit="currencyUSD",
        query=f"3600 * {per_second('peak_premium_usd_total', by='version')}",
        legend="{{version}}",
        draw=stacked,
    ),
    View(
        title="Fixed costs (USD per hour)",
        description="What versions cost by the clock, as the settings say; not part of the spend above.",
        unit="currencyUSD",
        query=f"sum by (version, item) ({recorded('version_fixed_cost_usd_per_hour')})",
        legend="{{version}} {{item}}",
        draw=stacked,
    ),
    View(
        title="Spend rate by purpose (USD per hour)",
        description="Production, validation and shadow traffic; the model filter has no effect.",
        unit="currencyUSD",
        query=f"3600 * {per_second('purpose_cost_usd_total', by='purpose')}",
        legend="{{purpose}}",
        draw=stacked,
    ),
    View(
        title="Band in force",
        description="Which price applies at this moment: peak, off-peak, flat, or unknown where nobody has published the holidays.",
        unit="none",
        query=f"max by (version, band) ({recorded('price_band_active')}) == 1",
        legend="{{version}} {{band}}",
        draw=bars,
    ),
    View(
        title="Balance gap (USD)",
        description="By how much the account's balance fell more than was metered in the last day; empty without a key to ask with.",
        unit="currencyUSD",
        query=f"max by (job) ({recorded('balance_gap_usd')})",
        legend="{{job}}",
        draw=number,
        alert="DeepseekMeterBalanceGap",
    ),
)

ANSWERS = in_range("requests_total", METERED, ANSWERED, by="version")
COSTS = in_range("cost_usd_total", by="version")
REASONING = ratio(
    in_range("tokens_total", 'kind="output_reasoning"', by="version"), in_range("tokens_total", OUTPUT, by="version")
)
CACHED = ratio(
    in_range("tokens_total", 'kind="input_cache_hit"', by="version"), in_range("tokens_total", INPUT, by="version")
)


def built(query: str) -> str:
    """The same of versions that more than one build answered for, with the version before its revisions as their `base`."""
    revised = in_range("requests_total", METERED, ANSWERED, 'version=~".+[+].+"', by="version")
    return f"({based(query)}\nand on (base)\n{based(f'{revised} > 0')})"


def based(query: str) -> str:
    """The same with `X` as the base of `X` and `X+r2`."""
    return f'label_replace({query}, "base", "$1", "version", "([^+]*).*")'


VERSIONS = (
    Table(
        title="Versions",
        description="What each version cost in the time range shown, and why. A revision (+r2) is a silent change and has a row of its own.",
        labels=("version",),
        columns=(
            Column("Cost", COSTS, "currencyUSD"),
            Column("Answered requests", ANSWERS, "short"),
            Column("Cost per request", ratio(COSTS, ANSWERS), "currencyUSD"),
            Column("Reasoning share", REASONING, "percentunit"),
            Column("Cache hit ratio", CACHED, "percentunit"),
            Column("Saved by the cache", in_range("cache_savings_usd_total", by="version"), "currencyUSD"),
            Column("Charged for peak hours", in_range("peak_premium_usd_total", by="version"), "currencyUSD"),
        ),
        falling_by="Cost",
    ),
    Table(
        title="Before and after a silent change",
        description="Versions that changed under their name in the time range shown: the first build beside its revisions. Choose a"
        " range that holds some of both.",
        labels=("base", "version"),
        columns=(
            Column("Answered requests", built(ANSWERS), "short"),
            Column("Cost per request", built(ratio(COSTS, ANSWERS)), "currencyUSD"),
            Column(
                "Times the first build",
                f"{built(ratio(COSTS, ANSWERS))}\n/ on (base) group_left ()\n"
                + based(
                    ratio(COSTS, in_range("requests_total", METERED, ANSWERED, 'version!~".+[+].+"', by="version"))
                ),
                "none",
            ),
            Column("Reasoning share", built(REASONING), "percentunit"),
            Column("Cache hit ratio", built(CACHED), "percentunit"),
        ),
        alert="DeepseekMeterVersionChanged",
    ),
)


def forecast(window: str) -> str:
    """What budgets will have cost at the end of their periods, at the rate of the last hours or days."""
    share = f'budget:deepseek_meter_used:forecast{window}{{job=~"$job"}}'
    return f"sum by (budget) ({share} * {recorded('budget_limit_usd')})"


BUDGETS = (
    Table(
        title="Budgets",
        description="Exact, of the period under way. Left is what a next request may cost: what exchanges under way may cost is set aside."
        " A burn of 1 just lasts; the forecasts go on at the rate of the last hours, and days. Rolling budgets have neither, and those in yuan no"
        " amounts here.",
        labels=("budget",),
        columns=(
            Column("Limit", f"sum by (budget) ({recorded('budget_limit_usd')})", "currencyUSD"),
            Column("Spent", f"sum by (budget) ({recorded('budget_spend_usd')})", "currencyUSD"),
            Column("Set aside", f"sum by (budget) ({recorded('budget_reserved_usd')})", "currencyUSD"),
            Column(
                "Left",
                f"sum by (budget) ({recorded('budget_limit_usd')}"
                f" - {recorded('budget_spend_usd')} - {recorded('budget_reserved_usd')})",
                "currencyUSD",
            ),
            Column("Burn, 1 hour", 'max by (budget) (budget:deepseek_meter_burn:rate1h{job=~"$job"})', "none"),
            Column("Burn, 3 days", 'max by (budget) (budget:deepseek_meter_burn:rate3d{job=~"$job"})', "none"),
            Column(
                "Forecast, 6 hours",
                forecast("6h"),
                "currencyUSD",
            ),
            Column(
                "Forecast, 3 days",
                forecast("3d"),
                "currencyUSD",
            ),
            Column(
                "Period ends",
                f"1000 * max by (budget) ({recorded('budget_period_end_timestamp_seconds')})",
                "dateTimeAsIso",
            ),
        ),
        alert="DeepseekMeterBudgetForecastExceeded",
    ),
    View(
        title="Used of each budget",
        description="Spent of the limit, in the period under way.",
        unit="percentunit",
        query='max by (budget) (budget:deepseek_meter_used:ratio{job=~"$job"})',
        legend="{{budget}}",
        draw=bars,
        alert="DeepseekMeterBudgetNearlyUsed",
    ),
    View(
        title="Burn (times as fast as it lasts)",
        description="Spend over an hour against a steady spend that uses up the limit at the period's end. 1 just lasts.",
        unit="none",
        query='max by (budget) (budget:deepseek_meter_burn:rate1h{job=~"$job"})',
        legend="{{budget}}",
        draw=lines,
        alert="DeepseekMeterBudgetBurnFast",
    ),
    View(
        title="Refused by a budget (per second)",
        description="Requests that were not sent on, because a budget had no room for them.",
        unit="reqps",
        query=per_second("budget_refusals_total", by="budget"),
        legend="{{budget}}",
        draw=lines,
        alert="DeepseekMeterBudgetRefuses",
    ),
)


def price(kind: str) -> str:
    """What a million tokens of a kind cost."""
    of_kind = recorded("price_usd_per_million_tokens", f'kind="{kind}"')
    return f"max by (upstream, version, band) ({of_kind})"


PRICES = (
    Table(
        title="Prices in force (USD per million tokens)",
        description="By the lists in force, and which band applies at this moment: 1. A band that is unknown, because nobody has published"
        " the holidays, is charged as peak.",
        labels=("version", "upstream", "band"),
        columns=(
            Column("At this moment", f"max by (upstream, version, band) ({recorded('price_band_active')})", "none"),
            Column("Input, cache hit", price("input_cache_hit"), "currencyUSD"),
            Column("Input, cache miss", price("input_cache_miss"), "currencyUSD"),
            Column("Reasoning", price("output_reasoning"), "currencyUSD"),
            Column("Answer", price("output_answer"), "currencyUSD"),
        ),
        alert="DeepseekMeterPriceReviewOverdue",
    ),
)

BOARD = Board(
    uid="deepseek-meter-cost-by-version",
    title="Cost by version",
    description="What each version of the DeepSeek models costs, what drives it, and what is not known.",
    rows=(
        ("Spend", SPEND),
        ("Version by version", VERSIONS),
        ("Budgets", BUDGETS),
        ("What drives it", DRIVERS),
        ("What it could be, and what comes beside it", SAVINGS),
        ("Prices", PRICES),
        ("How far the figures can be trusted", TRUST),
    ),
    choices=(JOB, VERSION, MODEL, APP),
)
