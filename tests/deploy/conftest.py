"""What the tests of deploy/ share: where its files lie, what they render to, promtool, and which metrics exist."""

from functools import partial
from pathlib import Path

import pytest
import yaml
from deploy.rendered import render
from e2e.stack import Simulator
from programs import program_path, run_program

from proxy.console import metrics
from proxy.ledger.families import FAMILIES, PREFIX

REPO = Path(__file__).parents[2]

GAUGES = {name: gauge.labels for name, gauge in metrics.GAUGES.items()}
"""`FAMILIES` lists the counters of the store; the console makes these beside them."""


ALERTS = ("alerts.yml", "budgets.yml")


@pytest.fixture(scope="session")
def repo():
    return REPO


@pytest.fixture(scope="session")
def dockerfile():
    """The instructions of the Dockerfile as (word, rest), with continued lines joined and `${BASE}` put in."""
    text = (REPO / "Dockerfile").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    instructions = [tuple(line.split(maxsplit=1)) for line in lines]
    (base,) = [rest.removeprefix("BASE=") for word, rest in instructions if word == "ARG"]
    return [(word, rest.replace("${BASE}", base)) for word, rest in instructions]


@pytest.fixture(scope="session")
def targets(tmp_path_factory):
    """deploy/kubernetes rendered: base, every overlay, and the base with each component, by name."""
    return render(REPO / "deploy/kubernetes", tmp_path_factory.mktemp("kustomize"))


@pytest.fixture
def simulator(tmp_path):
    """A simulated API for what is started."""
    started = Simulator(tmp_path)
    yield started
    started.stop()


@pytest.fixture(scope="session")
def exported():
    """Labels by the full name of every metric that may be asked for."""
    families = {name: family.labels for name, family in FAMILIES.items() if not family.buckets}
    buckets = {f"{name}_bucket": (*family.labels, "le") for name, family in FAMILIES.items() if family.buckets}
    own = {**metrics.PROCESS_COUNTERS, **metrics.PROCESS_HISTOGRAMS}
    counters = {name: counter.labels for name, counter in own.items()}
    return {PREFIX + name: set(labels) for name, labels in (families | buckets | GAUGES | counters).items()}


@pytest.fixture(scope="session")
def recording():
    """The recording rules in their order, as (name, expression)."""
    return _rules("recording.yml", "record")


@pytest.fixture(scope="session")
def alerts():
    """The alerts as they stand in the files, by name."""
    files = [yaml.safe_load((REPO / "deploy/prometheus/rules" / name).read_text()) for name in ALERTS]
    return {rule["alert"]: rule for file in files for group in file["groups"] for rule in group["rules"]}


@pytest.fixture(scope="session")
def promtool():
    """A function that runs promtool; the test is skipped where there is none."""
    path = program_path("promtool")
    if path is None:
        pytest.skip("promtool is missing: run deploy/tools.sh or install the package `prometheus`")
    return partial(run_program, path)


def _rules(name, kind):
    groups = yaml.safe_load((REPO / "deploy/prometheus/rules" / name).read_text())["groups"]
    return [(rule[kind], rule["expr"]) for group in groups for rule in group["rules"]]
