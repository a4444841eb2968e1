"""What tables, the forecast and the marks say of a small history: their queries, as they stand in the JSON, asked by promtool.

An hour of two replicas: a version, its revision, another version, a budget, and prices that change.
"""

import json

import pytest
import yaml
from deploy.test_dashboards import without_macros

HOUR = {
    # metric and labels: values, one a minute
    'cost_usd_total{version="V"}': "0+0.25x60",
    'cost_usd_total{version="V+r2"}': "0+0.5x60",
    'cost_usd_total{version="W"}': "0+0.125x60",
    'requests_total{version="V", api="chat", outcome="complete"}': "0+4x60",
    'requests_total{version="V+r2", api="chat", outcome="complete"}': "0+2x60",
    'requests_total{version="V", api="chat", outcome="upstream_error"}': "0+16x60",
    'requests_total{version="V", api="models", outcome="complete"}': "0+16x60",
    'requests_total{version="W", api="chat", outcome="upstream_error"}': "0+16x60",
    'tokens_total{version="V", kind="output_reasoning"}': "0+16x60",
    'tokens_total{version="V", kind="output_answer"}': "0+48x60",
    'tokens_total{version="V+r2", kind="output_reasoning"}': "0+48x60",
    'tokens_total{version="V+r2", kind="output_answer"}': "0+16x60",
    'tokens_total{version="V", kind="input_cache_hit"}': "0+96x60",
    'tokens_total{version="V", kind="input_cache_miss"}': "0+32x60",
    'tokens_total{version="V+r2", kind="input_cache_hit"}': "0+32x60",
    'tokens_total{version="V+r2", kind="input_cache_miss"}': "0+96x60",
    'cache_savings_usd_total{version="V"}': "0+0.0625x60",
    'peak_premium_usd_total{version="W"}': "0+0.03125x60",
    'spend_usd{version="V", window="month"}': "100x60",
    'spend_usd{version="W", window="month"}': "50x60",
    'budget_limit_usd{budget="all"}': "720x60",
    'budget_spend_usd{budget="all"}': "40+1x60",
    'budget_reserved_usd{budget="all"}': "5x60",
    'budget_period_seconds{budget="all"}': "2592000x60",
    'budget_period_end_timestamp_seconds{budget="all"}': "2592000x60",
    # Nothing between minutes 10 and 20; dearer from 30 on; peak from 40 on; a third band from 50 on.
    'price_usd_per_million_tokens{upstream="u", version="V", kind="input_cache_hit", band="off_peak"}': "1x10 _x9 1x9 2x30",
    'price_usd_per_million_tokens{upstream="u", version="V", kind="input_cache_hit", band="peak"}': "4x10 _x9 4x40",
    'price_usd_per_million_tokens{upstream="u", version="V", kind="output_answer", band="peak"}': "8x10 _x9 8x40",
    'price_usd_per_million_tokens{upstream="u", version="V", kind="output_answer", band="flat"}': "_x50 16x10",
    'price_band_active{upstream="u", version="V", band="off_peak"}': "1x10 _x9 1x19 0x20",
    'price_band_active{upstream="u", version="V", band="peak"}': "0x10 _x9 0x19 1x20",
}

V, R2, W = 'version="V"', 'version="V+r2"', 'version="W"'
BASE, BASE_R2 = f'base="V", {V}', f'base="V", {R2}'
PEAK, OFF_PEAK, FLAT = (f'upstream="u", {V}, band="{band}"' for band in ("peak", "off_peak", "flat"))
ALL = 'budget="all"'

AFTER_AN_HOUR = {
    "Versions: Cost": {V: 15, R2: 30, W: 7.5},
    "Versions: Answered requests": {V: 240, R2: 120},
    "Versions: Cost per request": {V: 0.0625, R2: 0.25},
    "Versions: Reasoning share": {V: 0.25, R2: 0.75},
    "Versions: Cache hit ratio": {V: 0.75, R2: 0.25},
    "Versions: Saved by the cache": {V: 3.75},
    "Versions: Charged for peak hours": {W: 1.875},
    "Before and after a silent change: Answered requests": {BASE: 240, BASE_R2: 120},
    "Before and after a silent change: Cost per request": {BASE: 0.0625, BASE_R2: 0.25},
    "Before and after a silent change: Times the first build": {BASE: 1, BASE_R2: 4},
    "Before and after a silent change: Reasoning share": {BASE: 0.25, BASE_R2: 0.75},
    "Before and after a silent change: Cache hit ratio": {BASE: 0.75, BASE_R2: 0.25},
    "Budgets: Limit": {ALL: 720},
    "Budgets: Spent": {ALL: 100},
    "Budgets: Set aside": {ALL: 5},
    "Budgets: Left": {ALL: 615},
    "Budgets: Burn, 1 hour": {ALL: 60},
    "Budgets: Period ends": {ALL: 2_592_000_000},
    "Prices in force (USD per million tokens): At this moment": {PEAK: 1, OFF_PEAK: 0},
    "Prices in force (USD per million tokens): Input, cache hit": {PEAK: 4, OFF_PEAK: 2},
    "Prices in force (USD per million tokens): Answer": {PEAK: 8, FLAT: 16},
    # 743 hours of January 1970 are left, at the rate of three days of which one hour was spent in.
    "Forecast of the month": {V: 100 + 743 * 15 / 72, W: 50 + 743 * 7.5 / 72},
}

MARKED = {
    # Where no value is expected, nothing is marked.
    ("Price changes", 22): {},
    ("Price changes", 31): {f'upstream="u", {V}': 1},
    ("Price changes", 42): {},
    ("Price changes", 52): {f'upstream="u", {V}': 1},
    ("Band changes", 22): {},
    ("Band changes", 31): {},
    ("Band changes", 42): {'upstream="u", band="peak"': 1},
    ("Band changes", 52): {},
}


@pytest.fixture(scope="module")
def queries(repo):
    """Query by the name of its panel, mark, or table and column."""
    board = json.loads((repo / "dashboards/cost-by-version.json").read_text())
    found = {mark["name"]: mark["expr"] for mark in board["annotations"]["list"]}
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            found[panel["title"] + column(panel, target)] = target["expr"]
    return found


def column(panel, target):
    if panel["type"] != "table":
        return ""
    names = panel["transformations"][1]["options"]["renameByName"]
    return f": {names['Value #' + target['refId']]}"


def asked(query, minute, answer):
    """A unit test of promtool; in millionths, because it compares floats exactly."""
    samples = [{"labels": f"{{{labels}}}", "value": round(1e6 * value)} for labels, value in answer.items()]
    return {"expr": f"round(1e6 * ({without_macros(query)}))", "eval_time": f"{minute}m", "exp_samples": samples}


def replicas(series):
    """The series of one metric as two replicas show it."""
    name, labels = series.split("{")
    return [f'deepseek_meter_{name}{{job="m", instance="{instance}", {labels}' for instance in ("a", "b")]


def outcome(promtool, repo, tmp_path, tests):
    """What promtool says of these questions about the hour."""
    inputs = [{"series": one, "values": values} for series, values in HOUR.items() for one in replicas(series)]
    document = {
        "rule_files": [str(repo / "deploy/prometheus/rules/recording.yml")],
        "evaluation_interval": "1m",
        "tests": [{"interval": "1m", "input_series": inputs, "promql_expr_test": tests}],
    }
    (tmp_path / "queries_test.yml").write_text(yaml.safe_dump(document))
    return promtool("test", "rules", tmp_path / "queries_test.yml")


def test_tables_and_the_forecast_say_what_was_spent(queries, promtool, repo, tmp_path):
    """Each column has its figure in the row it belongs to, and rows that have none are not there."""
    tests = [asked(queries[name], 60, answer) for name, answer in AFTER_AN_HOUR.items()]
    told = outcome(promtool, repo, tmp_path, tests)
    assert told.returncode == 0, told.stdout + told.stderr


def test_marks_stand_where_prices_change_and_nowhere_else(queries, promtool, repo, tmp_path):
    """A new price and a new band are marked once, a border by the band that begins, and a gap in the data not at all."""
    tests = [asked(queries[name], minute, answer) for (name, minute), answer in MARKED.items()]
    told = outcome(promtool, repo, tmp_path, tests)
    assert told.returncode == 0, told.stdout + told.stderr


def test_a_figure_that_is_not_so_is_noticed(queries, promtool, repo, tmp_path):
    """promtool is asked in earnest: another figure is a failure."""
    assert outcome(promtool, repo, tmp_path, [asked(queries["Versions: Cost"], 60, {V: 16})]).returncode == 1


def test_every_column_of_every_table_is_asked_here(queries):
    """But for those that are the same query with another label or window."""
    alike = {
        "Budgets: Burn, 3 days",
        "Budgets: Forecast, 6 hours",
        "Budgets: Forecast, 3 days",
        "Prices in force (USD per million tokens): Input, cache miss",
        "Prices in force (USD per million tokens): Reasoning",
    }
    assert {name for name in queries if ": " in name} == {name for name in AFTER_AN_HOUR if ": " in name} | alike
