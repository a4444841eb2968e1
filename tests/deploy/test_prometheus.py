"""Prometheus' configuration, rules and alerts: accepted by promtool, tested both ways, and each with a runbook.

What the rules compute is tested in deploy/prometheus/tests/ by promtool itself; here it is run, and shown to notice changes.
"""

import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from proxy.settings import ConsoleSettings

REPLICA_LABELS = {"instance", "pod", "container", "node", "endpoint", "replica"}
REDUCED = re.compile(r"(max|min) without \(([^)]*)\) \((deepseek_meter_\w+)\)")
RAW = re.compile(r"(?<![:\w])deepseek_meter_\w+")
RECORDED = re.compile(r"\b(?:global|version|model|budget|job):\w+:\w+")

MUTATIONS = {
    "limit twice as high": ("alerts.yml", "> global:deepseek_meter_version", "> 2 * global:deepseek_meter_version"),
    "limit half as high": ("alerts.yml", "> global:deepseek_meter_version", "> 0.5 * global:deepseek_meter_version"),
    "spend fires later": ("alerts.yml", "for: 10m", "for: 20m"),
    "spend fires at once": ("alerts.yml", "for: 10m", "for: 1m"),
    "revisions left out": ("alerts.yml", "_with_revisions:rate5m", ":rate5m"),
    "a few unpriced tokens are fine": ("alerts.yml", ") > 0", ") > 3"),
    "unpriced fires at once": ("alerts.yml", "for: 5m", "for: 0m"),
    "unpriced in any currency": ("alerts.yml", '{currency="USD"}', ""),
    "a small share is a change": ("alerts.yml", "> 0.05", "> 0.001"),
    "half of the traffic is no change": ("alerts.yml", "> 0.05", "> 0.6"),
    "a change is news for ever": ("alerts.yml", "offset 1d", "offset 7d"),
    "a change is news for an hour": ("alerts.yml", "offset 1d", "offset 1h"),
    "a change fires at once": (
        "alerts.yml",
        "for: 10m\n        labels:\n          severity: warning",
        "labels:\n          severity: warning",
    ),
    "the version itself is a change": ("alerts.yml", '{version=~".+[+].+"}', ""),
    "failed requests have a build": ("recording.yml", '{outcome!~"upstream_error|refused"}', ""),
    "cents are a gap": ("alerts.yml", "_usd:max) > 1", "_usd:max) > 0.1"),
    "ten dollars are no gap": ("alerts.yml", "_usd:max) > 1", "_usd:max) > 10"),
    "too little metered only": (
        "alerts.yml",
        "abs(global:deepseek_meter_balance_gap_usd:max)",
        "global:deepseek_meter_balance_gap_usd:max",
    ),
    "yuan are dollars": ("alerts.yml", "_cny:max) > 7", "_cny:max) > 1"),
    "yuan are not looked at": ("alerts.yml", "_cny:max) > 7", "_cny:max) > 700"),
    "a gap fires at once": ("alerts.yml", "for: 1h", "for: 0m"),
    "a gap fires later": ("alerts.yml", "for: 1h", "for: 3h"),
    "two deviations are unusual": ("alerts.yml", "+ 4 * model", "+ 400 * model"),
    "twice is usual": ("alerts.yml", "> 2 * model", "> 20 * model"),
    "cents are an anomaly": ("alerts.yml", "rate30m > 1\n", "rate30m > 0\n"),
    "half as much again is an anomaly": ("alerts.yml", "> 2 * model", "> 1.2 * model"),
    "a quarter more is a regression": ("alerts.yml", "> 1.5 * avg", "> 1.2 * avg"),
    "three times is none": ("alerts.yml", "> 1.5 * avg", "> 3 * avg"),
    "cents are a regression": ("alerts.yml", "rate30m > 0.1\n", "rate30m > 0\n"),
    "errors are requests": ("recording.yml", ', outcome!~"upstream_error|refused"', ""),
    "ten points are a jump": ("alerts.yml", "> 0.15 + avg", "> 0.05 + avg"),
    "input is output": ("recording.yml", 'kind=~"output_.*"', 'kind=~".*"'),
    "a new installation has news": ("alerts.yml", "> 86400)", "> 0)"),
    "a revision is a new version": ("alerts.yml", '{version!~".*[+].*"}', ""),
    "news for a day": ("alerts.yml", "< 3600)", "< 86400)"),
    "a fiftieth without usage": ("alerts.yml", "share:ratio30m > 0.05", "share:ratio30m > 0.01"),
    "a twentieth estimated": ("alerts.yml", "share:ratio30m > 0.1\n", "share:ratio30m > 0.01\n"),
    "reported is estimated": ("recording.yml", '{source="estimated"}', ""),
    "a review is due at once": ("alerts.yml", "max > 86400", "max > 0"),
    "stale after an hour": ("alerts.yml", "timestamp_seconds > 60", "timestamp_seconds > 3600"),
    "ten seconds are a backlog": ("alerts.yml", "_seconds > 120", "_seconds > 5"),
    "one restart is many": ("alerts.yml", "[15m]) > 2", "[15m]) > 0"),
    "what is set aside is not lost": (
        "alerts.yml",
        "records_quarantined_total:max[1h]) > 0",
        "records_quarantined_total:max[1h]) > 9",
    ),
    "half a second is off": ("alerts.yml", "_offset_seconds) > 1", "_offset_seconds) > 0.1"),
    "behind is not off": (
        "alerts.yml",
        "abs(deepseek_meter_proxy_clock_offset_seconds)",
        "(deepseek_meter_proxy_clock_offset_seconds)",
    ),
    "an error costs something": ("alerts.yml", 'outcome="complete"}[15m]', 'outcome=~".*"}[15m]'),
    "store down fires later": ("alerts.yml", "for: 2m", "for: 20m"),
    "store down fires at once": ("alerts.yml", "for: 2m", "for: 0m"),
    "store up is taken for down": ("alerts.yml", "store_up == 0", "store_up == 1"),
    "no replica goes unnoticed": ("alerts.yml", " or absent(deepseek_meter_store_up)", ""),
    "replicas are added up": ("recording.yml", "max without", "sum without"),
    "the oldest replica counts": ("recording.yml", "max without", "min without"),
    "one replica with a store is enough": ("recording.yml", "min without", "max without"),
    "per minute, not per hour": ("recording.yml", "3600 *", "60 *"),
    "five per cent of a month in an hour": ("budgets.yml", "clamp_min(0.02", "clamp_min(0.05"),
    "one per cent of a month in an hour": ("budgets.yml", "clamp_min(0.02", "clamp_min(0.01"),
    "office hours are a fast burn": ("budgets.yml", "/ 3600, 5)", "/ 3600, 1)"),
    "a fast burn is ten times": ("budgets.yml", "/ 3600, 5)", "/ 3600, 10)"),
    "an hour has budgets to burn": ("budgets.yml", "max > 80000)", "max > 0)"),
    "a day has none": ("budgets.yml", "max > 80000)", "max > 90000)"),
    "a fast burn that is over": ("budgets.yml", "burn:rate5m", "burn:rate1h"),
    "a tenth of a month in six hours": ("budgets.yml", "clamp_min(0.05", "clamp_min(0.1"),
    "three per cent of a month in six hours": ("budgets.yml", "clamp_min(0.05", "clamp_min(0.03"),
    "office hours are a slow burn": ("budgets.yml", "/ 21600, 5)", "/ 21600, 1)"),
    "a slow burn is ten times": ("budgets.yml", "/ 21600, 5)", "/ 21600, 10)"),
    "six hours of a day": ("budgets.yml", "max > 600000)", "max > 80000)"),
    "a week has no six hours": ("budgets.yml", "max > 600000)", "max > 610000)"),
    "a slow burn that is over": ("budgets.yml", "burn:rate30m", "burn:rate6h"),
    "a fifth of a month in three days": ("budgets.yml", "clamp_min(0.1", "clamp_min(0.2"),
    "a twentieth of a month in three days": ("budgets.yml", "clamp_min(0.1", "clamp_min(0.05"),
    "a budget that lasts is burnt": ("budgets.yml", "/ 259200, 1)", "/ 259200, 0.5)"),
    "three days of a week": ("budgets.yml", "max > 2400000)", "max > 600000)"),
    "three days that are over": (
        "budgets.yml",
        "and\n          budget:deepseek_meter_burn:rate6h",
        "and\n          budget:deepseek_meter_burn:rate3d",
    ),
    "a forecast of the first hours": ("budgets.yml", "max - 21600", "max - 3600"),
    "a forecast of the first days": ("budgets.yml", "< 0.9 *", "< 0.99 *"),
    "no forecast before the end": ("budgets.yml", "< 0.9 *", "< 0.1 *"),
    "an afternoon is a forecast": ("budgets.yml", "max < 172800", "max > 0"),
    "a day needs three": ("budgets.yml", "max < 172800", "max < 3600"),
    "what is used up is foretold": ("budgets.yml", "used:ratio < 1", "used:ratio < 100"),
    "a period has no end": (
        "recording.yml",
        "clamp_min(global:deepseek_meter_budget_period_end_timestamp_seconds:max - time(), 0)",
        "2592000",
    ),
    "yuan are no money": ("recording.yml", "_limit_cny:max > 0", "_limit_cny:max > 100000"),
    "two thirds are half": ("budgets.yml", ">= 0.5", ">= 0.67"),
    "a third is half": ("budgets.yml", ">= 0.5", ">= 0.25"),
    "nine tenths are half": ("budgets.yml", ">= 0.5 < 0.8", ">= 0.5"),
    "half of an hour is news": ("budgets.yml", "max < 80000", "max < 0"),
    "half is nearly all": ("budgets.yml", "used:ratio >= 0.8", "used:ratio >= 0.5"),
    "nine tenths are not nearly all": ("budgets.yml", ">= 0.8", ">= 0.95"),
    "all is nearly all": ("budgets.yml", ">= 0.8 < 1", ">= 0.8"),
    "nine tenths are all": ("budgets.yml", "used:ratio >= 1", "used:ratio >= 0.85"),
    "a tenth more is not all": ("budgets.yml", "used:ratio >= 1", "used:ratio >= 1.2"),
    "a dozen refusals are none": ("budgets.yml", "max[10m]) > 0", "max[10m]) > 12"),
    "refusals for an hour": ("budgets.yml", "total:max[10m]", "total:max[60m]"),
}


@pytest.fixture
def pack(repo, tmp_path):
    """A copy of deploy/prometheus to change."""
    return copy_of(repo, tmp_path)


def copy_of(repo, folder):
    """deploy/prometheus in a folder; its token lies beside it, because promtool wants to see the file."""
    copy = shutil.copytree(repo / "deploy/prometheus", folder / "prometheus")
    (folder / "token").write_text("a token\n")
    config = copy / "prometheus.yml"
    config.write_text(config.read_text().replace("/run/secrets/console_token", str(folder / "token")))
    return copy


@pytest.fixture(scope="module")
def config(repo):
    return yaml.safe_load((repo / "deploy/prometheus/prometheus.yml").read_text())


@pytest.fixture(scope="module")
def tests_of_alerts(repo):
    files = sorted((repo / "deploy/prometheus/tests").glob("*.yml"))
    cases = [case for file in files for case in yaml.safe_load(file.read_text())["tests"]]
    return [test for case in cases for test in case.get("alert_rule_test", [])]


def rule_tests(promtool, pack):
    """promtool's unit tests, file by file until one fails."""
    for file in sorted((pack / "tests").glob("*_test.yml")):
        outcome = promtool("test", "rules", file)
        if outcome.returncode:
            break
    return outcome


def cases_about(promtool, pack, name):
    """Only the unit tests that name a rule, which is much quicker than all of them; 0 also where there are none."""
    for file in sorted((pack / "tests").glob("*_test.yml")):
        whole = yaml.safe_load(file.read_text())
        some = [case for case in whole["tests"] if name in yaml.safe_dump(case)]
        if not some:
            continue
        few = file.with_name(f"few_{file.name}")
        few.write_text(yaml.safe_dump({**whole, "tests": some}, sort_keys=False))
        try:
            code = promtool("test", "rules", few).returncode
        finally:
            few.unlink()
        if code:
            return code
    return 0


def named_around(text, old):
    """The alert or the series whose rule holds this text."""
    return (re.findall(r"(?:alert|record): (\S+)", text[: text.index(old)]) or [""])[-1]


def test_promtool_accepts_the_configuration_with_its_rules(promtool, pack):
    """The configuration is read as Prometheus reads it at start: token file and rule files included."""
    outcome = promtool("check", "config", pack / "prometheus.yml")
    assert outcome.returncode == 0, outcome.stderr
    assert "3 rule files found" in outcome.stdout


def test_promtool_accepts_the_rules(promtool, pack):
    """No rule is malformed, and none stands there twice."""
    outcome = promtool("check", "rules", *sorted((pack / "rules").glob("*.yml")))
    assert outcome.returncode == 0, outcome.stderr
    assert "duplicate" not in outcome.stdout


def test_the_rules_compute_what_their_tests_say(promtool, pack):
    """Two replicas, a rolling deploy, new series, an absent store: promtool's own unit tests pass."""
    outcome = rule_tests(promtool, pack)
    assert outcome.returncode == 0, outcome.stderr + outcome.stdout


@pytest.fixture(scope="module")
def changed(repo, promtool, tmp_path_factory, request):
    """What promtool says of each changed pack that is asked for: several at once, since each is a process of its own."""
    ours = [
        item for item in request.session.items if getattr(item, "originalname", "") == "test_a_changed_rule_is_noticed"
    ]
    asked = [item.callspec.params["change"] for item in ours]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(outcomes_of, name, repo, promtool, tmp_path_factory.mktemp("pack")) for name in asked}


def outcomes_of(change, repo, promtool, folder):
    """The exit codes of the check and of the unit tests, with one change made to a copy of the pack."""
    pack = copy_of(repo, folder)
    name, old, new = MUTATIONS[change]
    path = pack / "rules" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    check = promtool("check", "rules", path).returncode
    return check, cases_about(promtool, pack, named_around(text, old)) or rule_tests(promtool, pack).returncode


@pytest.mark.parametrize("change", MUTATIONS)
def test_a_changed_rule_is_noticed(change, changed):
    """Each threshold, pause and reduction matters to some unit test: changed, it makes one fail."""
    check, tests = changed[change].result()
    assert check == 0
    assert tests != 0


def test_the_zero_of_a_new_series_is_always_seen(config):
    """The console shows 0 for a while before a first value; scrapes and rules come more often than that."""
    scrape, evaluation = (
        int(config["global"][key].removesuffix("s")) for key in ("scrape_interval", "evaluation_interval")
    )
    assert scrape < ConsoleSettings().new_series_hold_seconds
    assert evaluation <= scrape


def test_the_console_is_scraped_with_a_token_from_a_file(config):
    """The token itself is in no file of the repo."""
    (scrape,) = config["scrape_configs"]
    assert scrape["metrics_path"] == "/metrics"
    assert scrape["authorization"] == {"type": "Bearer", "credentials_file": "/run/secrets/console_token"}


def test_alertmanagers_may_be_added_and_need_not(config):
    """They are found through files; without any file there is none, and that is no error."""
    (entry,) = config["alerting"]["alertmanagers"]
    assert entry == {"file_sd_configs": [{"files": ["alertmanagers/*.yml"]}]}


def test_raw_families_are_reduced_first_and_exist(recording, exported):
    """A raw family appears only inside the reduction over replicas, under a name that says so, and it is exported."""
    for name, expression in recording:
        raw = set(RAW.findall(expression))
        if not raw:
            continue
        how, labels, family = REDUCED.fullmatch(expression).groups()
        assert raw == {family}
        assert set(labels.split(", ")) == REPLICA_LABELS
        assert name == f"global:{family}:{how}"
        assert family in exported


def test_a_rule_comes_after_what_it_reads(recording):
    """Rules of a group run in order, so a rate sees the maximum of the same instant."""
    seen = set()
    for name, expression in recording:
        assert set(RECORDED.findall(expression)) <= seen, name
        seen.add(name)


def test_only_counters_have_a_rate(recording):
    """A rate of a gauge is a number without a meaning; but for those that rise until its period ends, as recording.yml explains."""
    rated = {name for _, expression in recording for name in re.findall(r"rate\(([\w:]+)", expression)}
    assert {name for name in rated if not name.endswith("_total:max")} == {
        f"global:deepseek_meter_budget_spend_{currency}:max" for currency in ("usd", "cny")
    }


def test_alerts_read_what_is_recorded(alerts, recording, exported):
    """Raw is only what is of one replica: whether it has its store, and the families of its processes."""
    recorded = {name for name, _ in recording}
    for name, alert in alerts.items():
        assert set(RECORDED.findall(alert["expr"])) <= recorded, name
        own = {raw for raw in RAW.findall(alert["expr"]) if not raw.startswith("deepseek_meter_proxy_")}
        assert own <= {"deepseek_meter_store_up", "deepseek_meter_store_snapshot_timestamp_seconds"}, name
        assert set(RAW.findall(alert["expr"])) <= set(exported), name


def test_alerts_watch_the_spend(alerts):
    """One for too much of it, one for spend that cannot be seen, both by version; one for the account as a whole; those of budgets."""
    spend = {name for name, alert in alerts.items() if alert["labels"]["category"] == "spend"}
    assert spend == {
        "DeepseekMeterVersionSpendAboveLimit",
        "DeepseekMeterVersionTokensUnpriced",
        "DeepseekMeterBalanceGap",
        "DeepseekMeterSpendAnomaly",
        "DeepseekMeterPriceReviewOverdue",
        "DeepseekMeterCostIsZero",
        *(name for name in alerts if name.startswith("DeepseekMeterBudget")),
    }
    for label in ("version", "budget"):
        named = [name for name in spend if label.capitalize() in name]
        assert all(f"$labels.{label}" in alerts[name]["annotations"]["summary"] for name in named)


def test_every_alert_says_how_bad_it_is_and_what_to_do(alerts):
    """Severity, category, summary, description and runbook are there."""
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert alert["labels"]["category"] in {"spend", "metering", "version"}, name
        assert alert["annotations"]["summary"], name
        assert alert["annotations"]["description"], name
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{name.lower()}"


def test_every_alert_has_its_runbook_and_every_runbook_its_alert(alerts, repo):
    """The anchor in the alert is a heading of the document; no section outlives its alert."""
    headings = re.findall(r"^## (.+)$", (repo / "docs/runbooks.md").read_text(), re.MULTILINE)
    assert sorted(headings) == sorted(alerts)


def test_runbooks_ask_for_series_that_exist(repo, recording):
    """A query copied from a runbook in the night returns something."""
    asked = set(RECORDED.findall((repo / "docs/runbooks.md").read_text()))
    assert asked
    assert asked <= {name for name, _ in recording}


def test_every_alert_is_shown_to_fire_and_to_stay_silent(alerts, tests_of_alerts):
    """For each alert there is a unit test that expects it and one that expects nothing."""
    for name in alerts:
        expected = [bool(test["exp_alerts"]) for test in tests_of_alerts if test["alertname"] == name]
        assert set(expected) == {True, False}, name


def test_no_unit_test_waits_for_an_alert_that_is_gone(alerts, tests_of_alerts):
    """promtool passes a test that expects nothing of an alert that does not exist."""
    assert {test["alertname"] for test in tests_of_alerts} == set(alerts)
