"""Dashboards: what Grafana's linters ask for, and that every query asks for something that exists.

Not here: a drawing. No Grafana runs in the tests, so that a panel looks right is not proved.
"""

import json
import re
import shutil
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
RECORDED = re.compile(r"\b(?:global|version|model|budget|job):\w+:\w+")
OWN = re.compile(r"(?<![:\w])deepseek_meter_proxy_\w+")
SCRAPED = {"job", "instance"}
RAW_FAMILY = re.compile(r"global:(deepseek_meter_\w+):(?:max|min)(?:\{([^}]*)\})?")
COUNTER = re.compile(r"(.{0,9})global:deepseek_meter_\w+_total:max(?:\{[^}]*\})?(.?)", re.DOTALL)


BOARDS = ["cost-by-version.json", "metering-health.json", "proxy-operations.json", "versions-compared.json"]


@pytest.fixture(scope="module", params=BOARDS)
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


LEFT_OUT = {
    "cost_cny_total": "the same exchanges by the yuan list; for those who are billed in yuan",
    "app_requests_total": "for questions by app; the dashboards ask for its cost",
    "app_tokens_total": "as above; runbooks ask for it",
    "version_info": "which fingerprint stood for what; asked for by hand",
    "version_last_seen_timestamp_seconds": "as above",
    "proxy_estimate_checks_total": "how large the sample is; the errors are shown by tokens",
    "proxy_estimate_estimated_tokens_total": "the sign of the error; asked for by hand",
    "budget_reserved_cny": "for those who are billed in yuan; spend and limit are in the shares and alerts",
    "balance": "the amount is nobody's business on a wall",
}


def without_part(family):
    """A histogram's family without the part that is asked for: its table has one row."""
    return family.removesuffix("_bucket")


def without_macros(expression):
    for macro, value in MACROS.items():
        expression = expression.replace(macro, value)
    return re.sub(r"\$[a-z]\w*", ".*", expression)  # `$1` belongs to label_replace


def made_labels(expression):
    """The labels that label_replace adds to a query's."""
    return set(re.findall(r'label_replace\([\s\S]+?, "(\w+)", "\$1"', expression))


def test_every_file_is_what_the_generator_writes(repo):
    """A dashboard that was edited by hand, or a generator that was not run, fails here by name."""
    run = [sys.executable, repo / "dashboards/build.py", "--check"]
    outcome = subprocess.run(run, capture_output=True, text=True, check=False)
    assert outcome.returncode == 0, outcome.stderr


def test_the_check_names_a_file_that_differs(repo, tmp_path):
    """`--check` returns 1 and names the file when it holds something else."""
    script = tmp_path / "build.py"
    for source in (repo / "dashboards").glob("*.py"):
        (tmp_path / source.name).write_text(source.read_text())
    (tmp_path / "cost-by-version.json").write_text("{}")
    outcome = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert outcome.returncode == 1
    assert "cost-by-version.json" in outcome.stderr


def test_every_file_here_is_generated(repo):
    """No JSON lies in dashboards/ that the tests of this file do not see."""
    assert sorted(path.name for path in (repo / "dashboards").glob("*.json")) == BOARDS


def test_grafanas_own_model_knows_every_key(board):
    """Read and written again by Grafana's types nothing is lost, so no key is misspelt."""
    assert json.loads(json.dumps(Dashboard.from_json(board), cls=JSONEncoder)) == board


def test_a_dashboard_has_an_address_that_lasts_and_cannot_be_edited(board, request):
    """The uid is ours and stable, no id of a database is carried along, and edits belong in the generator."""
    file = request.node.callspec.params["board"]
    assert board["uid"] == f"deepseek-meter-{file.removesuffix('.json')}"
    assert [link["type"] for link in board["links"]] == ["dashboards", "link"]  # to the others, and to the runbooks
    assert board["links"][0]["tags"] == board["tags"] == ["deepseek-meter"]
    assert board["links"][1]["url"] == "docs/runbooks.md"
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
    assert {"job", "version", "model"} <= offered <= {"job", "version", "model", "app"}
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
    ranges = [found for query in queries for found in re.findall(r"\[[^\]]*\]", re.sub(r'"[^"]*"', "", query))]
    assert ranges
    assert set(ranges) <= {"[$__rate_interval]", "[$__range]"}


def test_counters_stand_under_a_rate_and_the_rate_under_the_sum(queries):
    """A counter as it stands says when Redis was new; a rate of a sum sees resets that are none."""
    found = [hit for query in queries for hit in COUNTER.findall(query)]
    for before, after in found:
        assert before.endswith(("rate(", "increase("))
        assert after == "["


def test_queries_read_recorded_series_only(queries, choices, recording):
    """No raw family of the store is asked for, so no total is counted once per replica; and what is asked for is recorded."""
    recorded = {name for name, _ in recording}
    for expression in queries + choices:
        names, own = set(RECORDED.findall(expression)), set(OWN.findall(expression))
        assert names or own
        assert names <= recorded
        assert "deepseek_meter_" not in OWN.sub("", RECORDED.sub("", expression))


def test_queries_name_only_labels_that_exist(queries, choices, exported):
    """Filters, groupings and what variables read are labels of the family, or the job of the scrape."""
    for expression in queries + choices:
        families = RAW_FAMILY.findall(expression)
        if any(not name.startswith("global:") for name in RECORDED.findall(expression)):
            continue  # a series made for its label: what it has is what the rule keeps
        own = [without_part(name) for name in OWN.findall(expression)]
        known = (
            set().union(*(exported[name] for name, _ in families), *(exported[name] for name in own)) | SCRAPED | {"le"}
        )
        for name, matchers in families:
            assert set(re.findall(r"(\w+)(?:=|!)", matchers)) <= exported[name] | {"job"}, name
        for group in re.findall(r"by \(([^)]*)\)", expression):
            assert set(group.split(", ")) <= known, expression


def test_legends_use_labels_that_the_query_keeps(panels, exported):
    """`{{version}}` in a legend stays empty if the query has summed the version away."""
    for target in (target for panel in panels if panel["type"] != "table" for target in panel["targets"]):
        kept = {label for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(", ")}
        if not kept:
            made_for = {name.split(":")[0] for name in RECORDED.findall(target["expr"])}
            kept = SCRAPED.union(made_for, *(exported[name] for name in OWN.findall(target["expr"])))
        assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept


def test_every_query_of_a_table_fills_a_column_of_the_same_rows(panels):
    """Grafana merges rows whose labels are equal: so every query has to keep the table's labels, and no other."""
    for panel in (panel for panel in panels if panel["type"] == "table"):
        merge, organize = panel["transformations"]
        names = organize["options"]["renameByName"]
        labels = {name for name in names if not name.startswith("Value #")}
        columns = {names[f"Value #{target['refId']}"]: target for target in panel["targets"]}
        assert (merge["id"], organize["id"]) == ("merge", "organize")
        assert len(columns) == len(panel["targets"]) == len(names) - len(labels) > 1, panel["title"]
        assert organize["options"]["excludeByName"] == {"Time": True}
        assert set(organize["options"]["indexByName"]) == set(names)
        units = {each["matcher"]["options"]: each["properties"] for each in panel["fieldConfig"]["overrides"]}
        assert set(units) == set(columns)
        assert all(one["id"] == "unit" and one["value"] for (one,) in units.values())
        assert {sort["displayName"] for sort in panel["options"]["sortBy"]} <= set(names.values())
        for heading, target in columns.items():
            groups = {frozenset(group.split(", ")) for group in re.findall(r"by \(([^)]*)\)", target["expr"])}
            assert {group | made_labels(target["expr"]) for group in groups} == {frozenset(labels)}, heading
            assert (target["format"], target["instant"]) == ("table", True)


def test_runbooks_of_panels_exist(panels, alerts):
    """A link on a panel leads to the section of an alert, which is there."""
    links = [link for panel in panels for link in panel.get("links", [])]
    assert {link["url"] for link in links} <= {f"docs/runbooks.md#{name.lower()}" for name in alerts}


def test_the_paths_of_runbooks_become_links_as_the_document_says(repo, tmp_path, alerts):
    """The command of docs/runbooks.md, run on a copy, leaves no path without what stands before it."""
    (command,) = re.findall(r"^    (sed -i .*)$", (repo / "docs/runbooks.md").read_text(), re.MULTILINE)
    for folder in ("dashboards", "deploy/prometheus/rules"):
        shutil.copytree(repo / folder, tmp_path / folder)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    files = [*tmp_path.glob("dashboards/*.json"), *tmp_path.glob("deploy/prometheus/rules/*.yml")]
    found = [hit for file in files for hit in re.findall(r"(\S*)docs/runbooks\.md#", file.read_text())]
    assert len(found) > len(alerts)
    assert all(before.endswith("https://git.example.com/deepseek-meter/") for before in found)


def test_prometheus_accepts_every_query(queries, choices, promtool, tmp_path):
    """Each query, its macros filled in, is checked as if it were a rule."""
    expressions = [without_macros(expression) for expression in queries + choices]
    rules = [{"record": f"check:query:{number}", "expr": each} for number, each in enumerate(expressions)]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    outcome = promtool("check", "rules", path)
    assert outcome.returncode == 0, outcome.stderr + outcome.stdout
    assert f"{len(rules)} rules found" in outcome.stdout


def test_changes_are_marked_where_versions_are_compared(board, promtool, tmp_path, recording):
    """Annotations of recorded series, for versions, prices and bands; the other dashboards have none."""
    marks = board["annotations"].get("list") or []
    compared = board["title"] in {"Cost by version", "Versions compared"}
    assert [mark["name"] for mark in marks] == ["Version changes", "Price changes", "Band changes"] * compared
    for mark in marks:
        assert set(RECORDED.findall(mark["expr"])) <= {name for name, _ in recording}
        assert set(re.findall(r"\{\{(\w+)\}\}", mark["titleFormat"])) <= {"model", "version", "upstream", "band"}
        rule = {"record": "check:mark", "expr": without_macros(mark["expr"])}
        (tmp_path / "mark.yml").write_text(yaml.safe_dump({"groups": [{"name": "marks", "rules": [rule]}]}))
        assert promtool("check", "rules", tmp_path / "mark.yml").returncode == 0


def test_every_family_is_on_a_dashboard_in_an_alert_or_left_out_with_a_reason(repo, exported, alerts):
    """What is exported and nobody looks at is only cost."""
    shown = "".join((repo / "dashboards" / name).read_text() for name in BOARDS)
    rules = "".join(alert["expr"] for alert in alerts.values())
    recorded = (repo / "deploy/prometheus/rules/recording.yml").read_text()
    made = re.sub(r"- record: global:.*\n.*", "", recorded)  # what is made of the reduced families
    looked_at = shown + rules + made
    silent = {name for name in exported if not re.search(rf"{name}(?:_bucket)?(?!\w)", looked_at)}
    assert {name.removeprefix("deepseek_meter_") for name in silent} == set(LEFT_OUT)


def test_the_dashboard_answers_the_questions_it_is_for(repo):
    """Each family a reader of cost needs is on it."""
    text = (repo / "dashboards/cost-by-version.json").read_text()
    queries = [target["expr"] for panel in json.loads(text)["panels"] for target in panel.get("targets", [])]
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
        "cache_savings_usd_total",
        "peak_premium_usd_total",
        "version_fixed_cost_usd_per_hour",
        "purpose_cost_usd_total",
        "price_usd_per_million_tokens",
        "balance_gap_usd",
        "price_band_active",
        "budget_limit_usd",
        "budget_spend_usd",
        "budget_reserved_usd",
        "budget_period_end_timestamp_seconds",
        "budget_refusals_total",
    }
    made = {name for query in queries for name in RECORDED.findall(query) if not name.startswith("global:")}
    assert made == {
        "version:deepseek_meter_cost_usd_per_hour:rate3d",
        "budget:deepseek_meter_used:ratio",
        "budget:deepseek_meter_burn:rate1h",
        "budget:deepseek_meter_burn:rate3d",
        "budget:deepseek_meter_used:forecast6h",
        "budget:deepseek_meter_used:forecast3d",
    }
