"""Writes the Grafana dashboards of this directory: `python dashboards/build.py`, or `--check` to compare only.

What lives here: rows, panels and queries, as tables. The JSON beside this file is output; a change there is lost.
Rule 1: queries read recorded series (`global:…`, `version:…`; deploy/prometheus/rules/recording.yml). The raw families
        show the same total on every replica, and a sum over them would count money once per replica.
Rule 2: one schema, the classic one, because every Grafana imports it; no data source is named, a variable picks it.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as schema

HERE = Path(__file__).parent
DATASOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")

FILTERS = {
    "tokens_total": ("job", "version", "model"),
    "cost_usd_total": ("job", "version", "model"),
    "requests_total": ("job", "version", "model"),
    "unpriced_tokens_total": ("job", "version", "model"),
    "requests_without_usage_total": ("job", "version", "model"),
    "app_cost_usd_total": ("job", "version", "app"),
    "spend_usd": ("job", "version"),
    "store_up": ("job",),
}
"""Which variables narrow a family: those whose name is one of its labels."""

METERED = 'api=~"chat|fim|anthropic|responses"'
ANSWERED = 'outcome!~"refused|upstream_error"'
INPUT = 'kind=~"input_.*"'
OUTPUT = 'kind=~"output_.*"'
TODAY = 'window="today"'
MONTH = 'window="month"'

Drawn = timeseries.Panel | bargauge.Panel | stat.Panel


@dataclass(frozen=True)
class View:
    """One panel: what it is called, what it tells, and the one query behind it."""

    title: str
    description: str
    unit: str
    query: str
    legend: str
    draw: Callable[["View"], Drawn]
    width: int = 8


@dataclass(frozen=True)
class Choice:
    """A variable on top of the dashboard: a label, and the recorded series its values are read from."""

    label: str
    description: str
    series: str


def recorded(family: str, *matchers: str, how: str = "max") -> str:
    """The recorded series of a family, narrowed by the dashboard's variables."""
    chosen = [f'{label}=~"${label}"' for label in FILTERS[family]]
    return f"global:deepseek_meter_{family}:{how}{{{', '.join([*chosen, *matchers])}}}"


def per_second(family: str, *matchers: str, by: str) -> str:
    """How fast a counter grows. The rate comes before the sum, so that a reset of one series stays its own."""
    return f"sum by ({by}) (rate({recorded(family, *matchers)}[$__rate_interval]))"


def ratio(part: str, whole: str) -> str:
    """A quotient that is absent, not NaN, where there is nothing to divide by."""
    return f"{part}\n/\n({whole} > 0)"


def lines(view: View) -> timeseries.Panel:
    """Curves over time, with mean and last value in the legend."""
    legend = common.VizLegendOptions().display_mode(options.LegendDisplayMode.TABLE).calcs(["mean", "lastNotNull"])
    tooltip = common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING)
    legend = legend.placement(options.LegendPlacement.BOTTOM).show_legend(True)
    panel = timeseries.Panel().min(0).line_width(1).show_points(options.VisibilityMode.NEVER)
    return panel.legend(legend).tooltip(tooltip).with_target(target(view).range())


def stacked(view: View) -> timeseries.Panel:
    """Areas on top of each other, for quantities whose sum means something."""
    stacking = common.StackingConfig().mode(options.StackingMode.NORMAL).group("A")
    return lines(view).stacking(stacking).fill_opacity(40)


def bars(view: View) -> bargauge.Panel:
    """The newest value of each series as a bar."""
    panel = bargauge.Panel().display_mode(options.BarGaugeDisplayMode.BASIC).min(0)
    panel = panel.orientation(options.VizOrientation.HORIZONTAL).reduce_options(newest())
    return panel.with_target(target(view).instant())


def state(view: View) -> stat.Panel:
    """Yes or no: 1 is green, anything below is red."""
    steps = [schema.Threshold(value=None, color="red"), schema.Threshold(value=1, color="green")]
    colours = dashboard.ThresholdsConfig().mode(schema.ThresholdsMode.ABSOLUTE).steps(steps)
    panel = stat.Panel().thresholds(colours).color_mode(options.BigValueColorMode.BACKGROUND)
    panel = panel.graph_mode(options.BigValueGraphMode.NONE).reduce_options(newest())
    return panel.with_target(target(view).instant())


def newest() -> common.ReduceDataOptions:
    """The last value that is one."""
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def target(view: View) -> prometheus.Dataquery:
    """The query of a panel."""
    query = prometheus.Dataquery().datasource(DATASOURCE).ref_id("A")
    return query.expr(view.query).legend_format(view.legend)


SPEND = (
    View(
        title="Spend rate (USD per hour)",
        description="What each version costs per hour at the moment. The areas add up to the whole.",
        unit="currencyUSD",
        query=f"3600 * {per_second('cost_usd_total', by='version')}",
        legend="{{version}}",
        draw=stacked,
        width=12,
    ),
    View(
        title="Spend today",
        description="Exact spend since midnight in the console's time zone, from the ledger; the model filter has no effect.",
        unit="currencyUSD",
        query=f"sum by (version) ({recorded('spend_usd', TODAY)})",
        legend="{{version}}",
        draw=bars,
        width=6,
    ),
    View(
        title="Spend this month",
        description="Exact spend since the first of the month in the console's time zone, from the ledger; the model filter has no effect.",
        unit="currencyUSD",
        query=f"sum by (version) ({recorded('spend_usd', MONTH)})",
        legend="{{version}}",
        draw=bars,
        width=6,
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
    ),
    View(
        title="Requests without usage (per second)",
        description="Exchanges for which the provider reported no token counts, by reason. Their tokens are estimated or unknown.",
        unit="reqps",
        query=per_second("requests_without_usage_total", by="version, reason"),
        legend="{{version}} {{reason}}",
        draw=lines,
        width=10,
    ),
    View(
        title="Store reachable",
        description="Whether every replica reaches its store. If one does not, the figures above may be too low.",
        unit="bool_yes_no",
        query=f"min by (job) ({recorded('store_up', how='min')})",
        legend="{{job}}",
        draw=state,
        width=4,
    ),
)

ROWS = (("Spend", SPEND), ("What drives it", DRIVERS), ("How far the figures can be trusted", TRUST))

CHOICES = (
    Choice("job", "The installation: its replicas share one job.", "global:deepseek_meter_store_up:min"),
    Choice(
        "version",
        "The version that answered, as the meter tagged it.",
        'global:deepseek_meter_tokens_total:max{job=~"$job"}',
    ),
    Choice(
        "model",
        "The model as it was requested.",
        'global:deepseek_meter_tokens_total:max{job=~"$job", version=~"$version"}',
    ),
    Choice("app", "Who asked.", 'global:deepseek_meter_app_cost_usd_total:max{job=~"$job", version=~"$version"}'),
)


def cost_by_version() -> schema.Dashboard:
    """The dashboard `cost-by-version`: what each version of the model costs, and why."""
    board = dashboard.Dashboard("Cost by version").uid("deepseek-meter-cost-by-version")
    board = board.description("What each version of the DeepSeek models costs, what drives it, and what is not known.")
    board = board.tags(["deepseek-meter", "cost"]).readonly().time("now-24h", "now").refresh("1m").timezone("browser")
    board = (
        board.tooltip(schema.DashboardCursorSync.CROSSHAIR)
        .variables([datasource(), *map(variable, CHOICES)])
        .annotations([])
    )
    for title, views in ROWS:
        board = board.with_row(dashboard.Row(title))
        for view in views:
            board = board.with_panel(panel(view))
    return numbered(board.build())


def panel(view: View) -> Drawn:
    """A panel with what every panel has."""
    drawn = view.draw(view).title(view.title).description(view.description).unit(view.unit)
    return drawn.datasource(DATASOURCE).span(view.width).height(8)


def numbered(board: schema.Dashboard) -> schema.Dashboard:
    """The same board with panel ids by position: links to a panel hold on to them."""
    for number, item in enumerate(board.panels or [], start=1):
        item.id_val = number
    return board


def datasource() -> dashboard.DatasourceVariable:
    """The variable that picks the Prometheus."""
    chosen = dashboard.DatasourceVariable("datasource").type("prometheus")
    return chosen.label("Data source").description("The Prometheus that scrapes the meter.")


def variable(choice: Choice) -> dashboard.QueryVariable:
    """A variable over the values of a label; by default all of them, new ones included."""
    query = f"label_values({choice.series}, {choice.label})"
    chosen = dashboard.QueryVariable(choice.label).label(choice.label.capitalize()).description(choice.description)
    chosen = chosen.datasource(DATASOURCE).query({"query": query, "refId": choice.label}).definition(query)
    chosen = chosen.refresh(schema.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(schema.VariableSort.ALPHABETICAL_ASC)
    everything = schema.VariableOption(selected=True, text=["All"], value=["$__all"])
    return chosen.multi(True).include_all(True).all_value(".*").current(everything)


BOARDS = {"cost-by-version.json": cost_by_version}


def rendered(board: schema.Dashboard) -> str:
    """JSON in which a change is a short diff: keys in order, one to a line."""
    return json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Writes the files, or with `--check` names those that differ and returns 1."""
    texts = {HERE / name: rendered(build()) for name, build in BOARDS.items()}
    if "--check" not in arguments:
        for path, text in texts.items():
            path.write_text(text, encoding="utf-8")
        return 0
    stale = [path.name for path, text in texts.items() if not path.exists() or path.read_text("utf-8") != text]
    for name in stale:
        sys.stderr.write(f"{name} is not what dashboards/build.py writes; run it and commit the result\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
