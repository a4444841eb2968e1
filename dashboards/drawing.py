"""How a dashboard is drawn: panels, variables and queries over the recorded series. What stands on one is in the file of its name.

Rule 1: queries read recorded series (`global:…`, `version:…`; deploy/prometheus/rules/recording.yml). The raw families
        show the same total on every replica, and a sum over them would count money once per replica.
Rule 2: one schema, the classic one, because every Grafana imports it; no data source is named, a variable picks it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from string import ascii_uppercase

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.builders import table as tables
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as schema
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = options.DataSourceRef(type_val="prometheus", uid="${datasource}")

_OF_ALL = ("job", "version", "model")
FILTERS = {
    **dict.fromkeys(
        (
            "tokens_total",
            "cost_usd_total",
            "requests_total",
            "unpriced_tokens_total",
            "requests_without_usage_total",
            "usage_violations_total",
            "cache_savings_usd_total",
            "peak_premium_usd_total",
        ),
        _OF_ALL,
    ),
    **dict.fromkeys(
        (
            "spend_usd",
            "cost_uncertain_usd_total",
            "purpose_cost_usd_total",
            "price_usd_per_million_tokens",
            "price_band_active",
            "price_review_timestamp_seconds",
            "version_fixed_cost_usd_per_hour",
            "version_spend_limit_usd_per_hour",
            "request_duration_seconds_bucket",
            "time_to_first_chunk_seconds_bucket",
            "version_mismatches_total",
            "version_first_seen_timestamp_seconds",
        ),
        ("job", "version"),
    ),
    "app_cost_usd_total": ("job", "version", "app"),
    "version_changes_total": ("job", "model"),
    **dict.fromkeys(
        (
            "store_up",
            "store_epoch",
            "store_catching_up",
            "store_snapshot_timestamp_seconds",
            "records_unreplayable_total",
            "records_quarantined_total",
            "balance",
            "balance_gap_usd",
            "budget_spend_usd",
            "budget_reserved_usd",
            "budget_limit_usd",
            "budget_period_end_timestamp_seconds",
            "budget_refusals_total",
        ),
        ("job",),
    ),
}
"""Which variables narrow a family: those whose name is one of its labels."""

METERED = 'api=~"chat|fim|anthropic|responses"'
ANSWERED = 'outcome!~"refused|upstream_error"'
INPUT = 'kind=~"input_.*"'
OUTPUT = 'kind=~"output_.*"'
TODAY = 'window="today"'
MONTH = 'window="month"'

RUNBOOKS = "docs/runbooks.md"
"""Written as in the alerts' `runbook_url`, and made a link in the same way; the file itself says how."""

Drawn = timeseries.Panel | bargauge.Panel | stat.Panel | tables.Panel


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
    alert: str = ""  # the one that watches what is shown here; its runbook is a click away


@dataclass(frozen=True)
class Column:
    """A column of a table: one figure of each row."""

    heading: str
    query: str
    unit: str


@dataclass(frozen=True)
class Table:
    """A panel of rows: a row for each combination of some labels, which every column's query keeps, and no others."""

    title: str
    description: str
    labels: tuple[str, ...]
    columns: tuple[Column, ...]
    falling_by: str = ""  # the heading rows are sorted by, largest first; by the labels if there is none
    width: int = 24
    alert: str = ""


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


def in_range(family: str, *matchers: str, by: str) -> str:
    """How much a counter grew in the time range that is shown."""
    return f"sum by ({by}) (increase({recorded(family, *matchers)}[$__range]))"


def quantile(share: float, family: str, by: str) -> str:
    """A quantile of a histogram, over the rate of its buckets."""
    return f"histogram_quantile({share}, {per_second(f'{family}_bucket', by=f'le, {by}')})"


def own(family: str, *matchers: str) -> str:
    """A family of one replica's processes, as it stands: the instance is the point."""
    chosen = ['job=~"$job"', *matchers]
    return f"deepseek_meter_proxy_{family}{{{', '.join(chosen)}}}"


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


def number(view: View) -> stat.Panel:
    """The newest value of each series, as a figure."""
    panel = stat.Panel().graph_mode(options.BigValueGraphMode.NONE).reduce_options(newest())
    return panel.color_mode(options.BigValueColorMode.NONE).with_target(target(view).instant())


def newest() -> common.ReduceDataOptions:
    """The last value that is one."""
    return common.ReduceDataOptions().calcs(["lastNotNull"]).values(False)


def target(view: View) -> prometheus.Dataquery:
    """The query of a panel."""
    query = prometheus.Dataquery().datasource(DATASOURCE).ref_id("A")
    return query.expr(view.query).legend_format(view.legend)


def table(view: Table) -> tables.Panel:
    """Rows of labels and figures. Each column is an instant query of its own; what has the same labels becomes one row."""
    letters = dict(zip(ascii_uppercase, view.columns, strict=False))
    sorting = common.TableSortByFieldState().display_name(view.falling_by or heading(view.labels[0]))
    drawn = tables.Panel().unit("none").sort_by([sorting.desc(bool(view.falling_by))])
    for letter, column in letters.items():
        query = prometheus.Dataquery().datasource(DATASOURCE).ref_id(letter).expr(column.query)
        drawn = drawn.with_target(query.instant().format(PromQueryFormat.TABLE))
        drawn = drawn.override_by_name(column.heading, [schema.DynamicConfigValue("unit", column.unit)])
    names = {label: heading(label) for label in view.labels}
    names |= {f"Value #{letter}": column.heading for letter, column in letters.items()}  # as Grafana calls them
    order = {name: number for number, name in enumerate(names)}
    organized = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": names}
    drawn = drawn.with_transformation(schema.DataTransformerConfig("merge", options={}))
    return drawn.with_transformation(schema.DataTransformerConfig("organize", options=organized))


def heading(label: str) -> str:
    """A label as the heading of its column."""
    return label.capitalize()


def panel(view: View | Table) -> Drawn:
    """A panel with what every panel has."""
    drawn = table(view) if isinstance(view, Table) else view.draw(view).unit(view.unit)
    drawn = drawn.title(view.title).description(view.description)
    if view.alert:
        drawn = drawn.links([runbook(view.alert)])
    return drawn.datasource(DATASOURCE).span(view.width).height(8)


def numbered(board: schema.Dashboard) -> schema.Dashboard:
    """The same board with panel ids by position: links to a panel hold on to them."""
    for number, item in enumerate(board.panels or [], start=1):
        item.id_val = number
    return board


JOB, VERSION, MODEL, APP = (
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
"""The variables that dashboards offer."""


@dataclass(frozen=True)
class Mark:
    """An annotation: where its query has a value, and what stands there."""

    name: str
    query: str
    text: str
    colour: str


CHANGES = (
    Mark(
        name="Version changes",
        query='increase(global:deepseek_meter_version_changes_total:max{job=~"$job"}[$__rate_interval]) > 0',
        text="{{model}}: another version or build",
        colour="orange",
    ),
    # The sum over kinds and bands moves with any of them, and when a band comes or goes: one mark for a new price list. A gap in
    # the data is none.
    Mark(
        name="Price changes",
        query="changes((sum by (upstream, version) ("
        f"{recorded('price_usd_per_million_tokens')}))[$__rate_interval:]) > 0",
        text="{{version}}: another price ({{upstream}})",
        colour="purple",
    ),
    # Of the two bands that change at a border the one that begins, and that once for all versions.
    Mark(
        name="Band changes",
        query=f"max by (upstream, band) (changes({recorded('price_band_active')}[$__rate_interval])) > 0\n"
        f"and max by (upstream, band) ({recorded('price_band_active')}) == 1",
        text="{{band}} begins ({{upstream}})",
        colour="blue",
    ),
)
"""What makes cost before and after another thing."""


@dataclass(frozen=True)
class Board:
    """A dashboard: its address and name, what it tells, its rows of views, and the variables on top of it."""

    uid: str
    title: str
    description: str
    rows: tuple[tuple[str, tuple[View | Table, ...]], ...]
    choices: tuple[Choice, ...]
    marks: tuple[Mark, ...] = CHANGES


def drawn(board: Board) -> schema.Dashboard:
    """The dashboard as Grafana wants it, with links to the others and to the runbooks."""
    built = dashboard.Dashboard(board.title).uid(board.uid).description(board.description)
    built = built.tags(["deepseek-meter"]).readonly().time("now-24h", "now").refresh("1m").timezone("browser")
    built = built.tooltip(schema.DashboardCursorSync.CROSSHAIR).links([others(), runbook()])
    built = built.variables([datasource(), *map(variable, board.choices)])
    built = built.annotations(list(map(marked, board.marks)))
    for title, views in board.rows:
        built = built.with_row(dashboard.Row(title))
        for view in views:
            built = built.with_panel(panel(view))
    return numbered(built.build())


def others() -> dashboard.DashboardLink:
    """The other dashboards of the meter, with the time range kept."""
    link = dashboard.DashboardLink("DeepSeek Meter").type(schema.DashboardLinkType.DASHBOARDS)
    return link.tags(["deepseek-meter"]).as_dropdown(True).keep_time(True).include_vars(True)


def runbook(alert: str = "") -> dashboard.DashboardLink:
    """What to do when an alert fires; without one, all of the runbooks."""
    link = dashboard.DashboardLink("Runbook" if alert else "Runbooks").type(schema.DashboardLinkType.LINK)
    return link.url(f"{RUNBOOKS}#{alert.lower()}" if alert else RUNBOOKS).icon("doc").target_blank(True)


def marked(mark: Mark) -> dashboard.AnnotationQuery:
    """A query whose values are marked on every curve."""
    query = dashboard.AnnotationQuery().name(mark.name).datasource(DATASOURCE).enable(True)
    return query.icon_color(mark.colour).expr(mark.query).title_format(mark.text)


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
