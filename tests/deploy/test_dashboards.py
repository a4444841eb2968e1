"""Dashboards: what Grafana's linters ask for, and that every query asks for something that exists.

Not here: a drawing. No Grafana runs in the tests, so that a panel looks right is not proved.
"""

import json
import re
import subprocess
import sys
import warnings

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder

with warnings.catch_warnings():
    # Importing the classic schema warns that there is a newer one; dashboards/build.py says why we stay.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.models.dashboard import Dashboard

MACROS = {"$__rate_interval": "5m", "$__range": "1h", "$__interval": "1m"}
RECORDED = re.compile(r"\b(?:global|version):\w+:\w+")
RAW_FAMILY = re.compile(r"global:(deepseek_meter_\w+):(?:max|min)(?:\{([^}]*)\})?")
COUNTER = re.compile(r"(.{0,9})global:deepseek_meter_\w+_total:max(?:\{[^}]*\})?(.?)", re.DOTALL)


@pytest.fixture(scope="module", params=["cost-by-version.json"])
def board(repo, request):
    return json.loads((repo / "dashboards" / request.param).read_text())


@pytest.fixture(scope="module")
def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


@pytest.fixture(scope="module")
def queries(panels):
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def variables(board):
    return {variable["name"]: variable for variable in board["templating"]["list"]}


@pytest.fixture(scope="module")
def choices(variables):
    """The series that the variables read their values from."""
    asked = [variable["query"]["query"] for variable in variables.values() if variable["type"] == "query"]
    return [re.fullmatch(r"label_values\((.+), \w+\)", query)[1] for query in asked]


def without_macros(expression):
    for macro, value in MACROS.items():
        expression = expression.replace(macro, value)
    return re.sub(r"\$\w+", ".*", expression)


def test_every_file_is_what_the_generator_writes(repo):
    """A dashboard that was edited by hand, or a generator that was not run, fails here by name."""
    run = [sys.executable, repo / "dashboards/build.py", "--check"]
    outcome = subprocess.run(run, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_the_check_names_a_file_that_differs(repo, tmp_path):
    """`--check` returns 1 and names the file when it holds something else."""
    script = tmp_path / "build.py"
    script.write_text((repo / "dashboards/build.py").read_text())
    (tmp_path / "cost-by-version.json").write_text("{}")
    outcome = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert "cost-by-version.json" in outcome.stderr


def test_every_file_here_is_generated(repo):
    """No JSON lies in dashboards/ that the tests of this file do not see."""
    assert [path.name for path in (repo / "dashboards").glob("*.json")] == ["cost-by-version.json"]


def test_grafanas_own_model_knows_every_key(board):
    """Read and written again by Grafana's types nothing is lost, so no key is misspelt."""
    assert json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)) == board


def test_a_dashboard_has_an_address_that_lasts_and_cannot_be_edited(board):
    """The uid is ours and stable, no id of a database is carried along, and edits belong in the generator."""
    assert board["uid"] == "deepseek-meter-cost-by-version"
    assert "id" not in board
    assert board["editable"] is False


def test_every_panel_says_what_it_shows(panels):
    """Title, description and unit are there, and no title is used twice."""
    for panel in panels:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
    titles = [panel["title"] for panel in panels]
    assert len(set(titles)) == len(titles)


def test_panels_have_ids_of_their_own_and_do_not_overlap(board):
    """Links hold on to ids, and two panels on one spot hide each other."""
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    spots = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(spots)) == len(spots)
    assert max(x for x, _ in spots) < 24


def test_the_data_source_is_picked_by_a_variable(panels, variables):
    """No uid of somebody's data source is in the file: it works wherever it is imported."""
    assert variables["datasource"]["query"] == "prometheus"
    asking = panels + [target for panel in panels for target in panel["targets"]]
    asking += [variable for variable in variables.values() if variable["type"] == "query"]
    for each in asking:
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_the_variables_narrow_every_query_they_can(variables, queries, exported):
    """A family with a label that is also a variable is filtered by it. `instance` is none: replicas show one total."""
    offered = set(variables) - {"datasource"}
    assert offered == {"job", "version", "model", "app"}
    for name, matchers in (found for query in queries for found in RAW_FAMILY.findall(query)):
        expected = {label for label in offered if label in exported[name] | {"job"}}
        narrowed = set(re.findall(r'(\w+)=~"\$\1"', matchers))
        assert narrowed == expected, name


def test_variables_offer_all_and_read_new_values(variables):
    """`All` is the start and matches new versions too; the lists are read again when the time range changes."""
    for variable in (each for each in variables.values() if each["type"] == "query"):
        assert variable["includeAll"]
        assert variable["multi"]
        assert variable["allValue"] == ".*"
        assert variable["refresh"] == 2


def test_every_range_is_the_rate_interval(queries):
    """A fixed range is wrong at some zoom: shorter than two scrapes, or longer than the step."""
    ranges = [found for query in queries for found in re.findall(r"\[[^\]]*\]", query)]
    assert ranges
    assert set(ranges) == {"[$__rate_interval]"}


def test_counters_stand_under_a_rate_and_the_rate_under_the_sum(queries):
    """A counter as it stands says when Redis was new; a rate of a sum sees resets that are none."""
    found = [hit for query in queries for hit in COUNTER.findall(query)]
    assert found
    for before, after in found:
        assert before.endswith(("rate(", "increase("))
        assert after == "["


def test_queries_read_recorded_series_only(queries, choices, recording):
    """No raw family is asked for, so no total is counted once per replica; and what is asked for is recorded."""
    recorded = {name for name, _ in recording}
    for expression in queries + choices:
        names = set(RECORDED.findall(expression))
        assert names
        assert names <= recorded
        assert "deepseek_meter_" not in RECORDED.sub("", expression)


def test_queries_name_only_labels_that_exist(queries, choices, exported):
    """Filters, groupings and what variables read are labels of the family, or the job of the scrape."""
    for expression in queries + choices:
        families = RAW_FAMILY.findall(expression)
        known = set.union(*(exported[name] for name, _ in families)) | {"job"}
        for name, matchers in families:
            assert set(re.findall(r"(\w+)(?:=|!)", matchers)) <= exported[name] | {"job"}, name
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert set(group.split(", ")) <= known, expression


def test_legends_use_labels_that_the_query_keeps(panels):
    """`{{version}}` in a legend stays empty if the query has summed the version away."""
    for target in (target for panel in panels for target in panel["targets"]):
        kept = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


def test_prometheus_accepts_every_query(queries, choices, promtool, tmp_path):
    """Each query, its macros filled in, is checked as if it were a rule."""
    expressions = [without_macros(expression) for expression in queries + choices]
    rules = [{"record": f"check:query:{number}", "expr": each} for number, each in enumerate(expressions)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    outcome = promtool("check", "rules", path)
    assert outcome.returncode == 0, outcome.stderr + outcome.stdout
    assert f"{len(rules)} rules found" in outcome.stdout


def test_the_dashboard_answers_the_questions_it_is_for(queries):
    """Each family a reader of cost needs is on it."""
    asked = {name.removeprefix("deepseek_meter_") for query in queries for name, _ in RAW_FAMILY.findall(query)}
    assert asked == {
        "cost_usd_total",
        "spend_usd",
        "app_cost_usd_total",
        "tokens_total",
        "requests_total",
        "unpriced_tokens_total",
        "requests_without_usage_total",
        "store_up",
    }
