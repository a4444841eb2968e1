"""The pack of deploy/ on real servers: every query has an answer, the right alerts arrive and go, figures are those of the ledger.

Two Prometheus look at the same two replicas: one with the rules as they are, for what dashboards ask; one with rules sixty
times as fast, whose alerts go through Alertmanager to somebody who listens. Traffic goes on until the last test of this file.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from e2e.stack import wait_until
from e2e.test_counts import wait_past_a_band_border
from live import faster, history
from live.asked import MAY_BE_EMPTY, questions
from live.installation import Installation, Traffic, ending
from live.servers import REPO, Alertmanager, Prometheus, Receiver, listening, program

from proxy.ledger.families import NANO

pytestmark = pytest.mark.live

VERSION = "DeepSeek-V4.1-Flash-1017"
PER_SECOND = 16.0
MODELS = {"deepseek-flash": 7.0, "deepseek-v4-pro": 2.0, "deepseek-ai/DeepSeek-R1-0528": 1.0}
WARM_S = 90.0  # the alerts' baseline ends an hour ago, which is a minute here
CHANGED_S = 110.0

LIVE_COST = f'global:deepseek_meter_cost_usd_total:max{{version!="{history.VERSION}", '
SPEND = "global:deepseek_meter_spend_usd:max"
NANO_USD = 1e-8  # a dozen doubles are added up

STANDING = {"DeepseekMeterVersionTokensUnpriced"}
"""Open weights without a price are asked all the time."""

CAUSED = {
    "DeepseekMeterVersionChanged",
    "DeepseekMeterReasoningShareUp",
    "DeepseekMeterCostPerRequestUp",
    "DeepseekMeterVersionSpendAboveLimit",
}
"""What a change that trebles reasoning has to say: no more, no less."""

MAY_COME = {"DeepseekMeterSpendAnomaly"}
"""Twice the mean of a day; the day is the warm-up here, and a busy machine starts slowly."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def scenario(folder):
    """The scenario, with its change where it belongs at this rate."""
    text = (Path(__file__).parent / "scenario.toml").read_text()
    numbers = {"changes_after": int(PER_SECOND * WARM_S), "returns_after": int(PER_SECOND * (WARM_S + CHANGED_S))}
    for name, number in numbers.items():
        text = text.replace(f"{{{name}}}", str(number))
    path = folder / "scenario.toml"
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def watched(folder, scenario):
    """Everything running, traffic included."""
    program("prometheus"), program("alertmanager", "prometheus-alertmanager"), program("promtool")
    wait_past_a_band_border(600)  # a new price in the middle is another scenario
    installation = Installation(folder, scenario, settings())
    receiver = Receiver()
    with ending(installation), listening(receiver) as webhook:
        alertmanager = Alertmanager(
            subfolder(folder, "alertmanager"), faster.alertmanager(document("alertmanager"), webhook)
        )
        fast = Prometheus(
            subfolder(folder, "fast"),
            installation.consoles,
            {name: faster.rules(rules) for name, rules in shipped().items()},
            every="1s",
            alertmanager=alertmanager.address,
        )
        keep = subfolder(folder, "kept")
        backfill(keep)
        kept = Prometheus(keep, installation.consoles, shipped(), every="5s")
        halves = [Traffic(each.url, PER_SECOND / 2, MODELS, seed) for seed, each in enumerate(installation.replicas)]
        with ending(*halves, fast, kept, alertmanager):
            yield SimpleNamespace(
                installation=installation, receiver=receiver, fast=fast, kept=kept, traffic=halves, begun_s=time.time()
            )


def subfolder(folder, name):
    (folder / name).mkdir()
    return folder / name


def document(name):
    return yaml.safe_load((REPO / f"deploy/{name}/{name}.yml").read_text())


def shipped():
    """The rules as they are installed, by file."""
    return {path.name: yaml.safe_load(path.read_text()) for path in (REPO / "deploy/prometheus/rules").glob("*.yml")}


def backfill(folder):
    """A month of history, made into blocks by promtool."""
    text = folder / "history.txt"
    with text.open("w") as lines:
        lines.writelines(history.openmetrics(time.time() - 60))
    command = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=768h"]
    subprocess.run([*command, str(text), str(folder / "data")], check=True, capture_output=True)


def settings():
    """A limit per hour that the change passes, and a budget for all that is far away from its limit."""
    return (
        f"[versions.'{VERSION}']\nspend_limit_usd_per_hour = {spend_limit():.6f}\n"
        '[[budgets]]\nname = "everything"\nlimit = 1000\nperiod = "month"\naction = "refuse"\n'
    )


def spend_limit():
    """Dollars per hour between what the version costs before its change and after it: 1.3 times the former."""
    command = [sys.executable, "-m", "proxy", "prices", "--version", VERSION, "--format", "json"]
    price = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["per_million_tokens"]
    hit, miss, output = (float(price[kind]) for kind in ("input_cache_hit", "input_cache_miss", "output_answer"))
    request = (128 * hit + 20 * miss + 160 * output) / 1e6
    return 1.3 * request * PER_SECOND * 3600 * MODELS["deepseek-flash"] / sum(MODELS.values())


def test_a_change_that_trebles_reasoning_is_told_and_its_end_too(watched):
    """The alerts it causes arrive at the receiver, each with its text filled in; no other does; all of them are taken back."""
    receiver = watched.receiver
    wait_until(lambda: receiver.names("firing") >= CAUSED | STANDING, WARM_S + CHANGED_S + 120, f"{receiver.heard}")
    told_at = {name: time.time() - watched.begun_s for name in receiver.names("firing")}
    wait_until(lambda: receiver.names("resolved") >= CAUSED, CHANGED_S + 240, f"resolved: {receiver.heard}")

    assert receiver.names("firing") - MAY_COME == CAUSED | STANDING
    assert watched.fast.firing() - MAY_COME == STANDING
    assert f"{VERSION}+r2" in receiver.texts["DeepseekMeterVersionChanged"]["summary"]
    for texts in receiver.texts.values():
        assert "<no value>" not in "".join(texts.values())
        assert texts["runbook_url"].startswith("docs/runbooks.md#")
    sys.stdout.write(
        f"\nalerts: {len(told_at)} had arrived {max(told_at.values()):.0f} s after the start; all of the change resolved\n"
    )


def test_every_panel_variable_and_mark_has_an_answer(watched):
    """Asked of the rules as installed; what may be empty is on a list with its reason, and the list names real panels."""
    wait_until(lambda: watched.kept.total("count(version:deepseek_meter_revision_share:ratio10m)") > 1, 240)
    found = [(question, answers(watched, question)) for question in questions(REPO / "dashboards")]
    for question, series in found:
        sys.stdout.write(f"  {question.board:18} {question.how:9} {question.panel:55} {series:4} series\n")
    empty = {question.panel for question, series in found if not series}
    assert empty <= set(MAY_BE_EMPTY)
    assert set(MAY_BE_EMPTY) <= {question.panel for question, _ in found}
    assert len({question.board for question, _ in found}) == 4


def answers(watched, question):
    """How many series, or values of a label, a question has for its answer."""
    if question.how == "variable":
        return len(watched.kept.ask(f"label/{question.label}/values", **{"match[]": question.expression}))
    span = {"start": watched.begun_s, "end": time.time(), "step": 5}
    return len(watched.kept.ask("query_range", query=question.expression, **span)["result"])


def test_what_is_exported_is_what_the_tests_of_the_pack_know(watched, exported_names):
    """Each family a replica shows is one that dashboards, rules or the list with reasons account for."""
    shown = {name for replica in watched.installation.replicas for name in replica.metrics()}
    assert {name.removesuffix("_count").removesuffix("_sum") for name in shown} - exported_names == set()


@pytest.fixture(scope="module")
def exported_names():
    from proxy.console import metrics
    from proxy.ledger.families import FAMILIES

    plain = {name for name, family in FAMILIES.items() if not family.buckets}
    histograms = {name for name, family in FAMILIES.items() if family.buckets} | set(metrics.PROCESS_HISTOGRAMS)
    return (
        plain
        | set(metrics.GAUGES)
        | set(metrics.PROCESS_COUNTERS)
        | histograms
        | {f"{name}_bucket" for name in histograms}
    )


def test_a_month_can_be_looked_back_on(watched):
    """Thirty days of a panel have data for thirty days, and the long windows say what was spent."""
    now = time.time()
    expression = f'3600 * sum(rate(global:deepseek_meter_cost_usd_total:max{{version="{history.VERSION}"}}[1h]))'
    (series,) = watched.kept.ask("query_range", query=expression, start=now - 30 * 86_400, end=now, step=7200)["result"]
    assert len(series["values"]) >= 30 * 12 - 1
    for window in ("6h", "3d"):
        rate = f'version:deepseek_meter_cost_usd_per_hour:rate{window}{{version="{history.VERSION}"}}'
        assert watched.kept.total(rate) == pytest.approx(history.USD_PER_HOUR, rel=0.02)


def test_the_exact_gauges_are_the_ledger_to_the_cent(watched):
    """After the traffic: gauges in Prometheus, counters, `report` and the bill say the same. Stops the traffic for good."""
    for half in watched.traffic:
        half.stop()
    kept, installation = watched.kept, watched.installation
    wait_until(lambda: settled(installation), 30)
    time.sleep(12)  # two scrapes, and the rules over them
    billed = sum(sum((row["cost_nano_usd"] or {}).values()) for row in installation.billed()) / NANO
    counted = {source: kept.total(f"{LIVE_COST}source={source!r}}}") for source in ("reported", "estimated")}
    reported = reported_by_version(installation)
    gauges = {dict(labels)["version"]: usd for labels, usd in kept.values(f"{SPEND}{{window='month'}}").items()}

    assert counted["reported"] == pytest.approx(billed, abs=NANO_USD)
    assert sum(counted.values()) == pytest.approx(sum(reported.values()), abs=NANO_USD)
    assert {name: usd for name, usd in gauges.items() if usd} == pytest.approx(reported, abs=NANO_USD)
    assert kept.total("global:deepseek_meter_budget_spend_usd:max") == pytest.approx(
        sum(reported.values()), abs=NANO_USD
    )
    assert kept.total("global:deepseek_meter_budget_reserved_usd:max") == 0
    sys.stdout.write(f"\nbilled {billed:.6f} USD, metered as reported {counted['reported']:.6f}; report {reported}\n")


def reported_by_version(installation):
    """Dollars by version as the command says it, for this month; versions that cost nothing are left out."""
    command = [sys.executable, "-m", "proxy", "report", "--since", "month", "--format", "json"]
    command += ["--redis", installation.redis_url, "--data-dir", str(installation.replicas[0].folder / "data")]
    rows = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["rows"]
    found = {row["version"]: float(row["cost"]["USD"]["total"] or 0) for row in rows}
    return {version: usd for version, usd in found.items() if usd}


def settled(installation):
    """True when every replica has nothing left to apply."""
    return all(
        replica.total("proxy_journal_pending_records") == 0 and replica.total("proxy_in_flight_requests") == 0
        for replica in installation.replicas
    )
