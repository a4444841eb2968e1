"""What the dashboards ask: every expression of panels, variables and marks, with Grafana's macros filled in. Pure.

`MAY_BE_EMPTY` is the list of what may have no answer, each with its reason; everything else has to have one.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

MACROS = {"$__rate_interval": "1m", "$__range": "10m", "$__interval": "10s"}

MAY_BE_EMPTY = {
    "Charged for peak hours (USD per hour)": "off-peak nothing is",
    "Versions: Charged for peak hours": "as above",
    "Fixed costs (USD per hour)": "tokens only in this installation",
    "Balance gap (USD)": "there is no key to ask for the balance with",
    "Uncertain cost (USD per hour)": "only in a year whose holidays nobody has published",
    "Answers of another version than expected (per second)": "clients of the scenario expect none",
    "Streams without usage (per second)": "the simulator always reports one",
    "Usages that break a rule (per second)": "the simulator's add up",
    "Records that are lost or set aside": "none are",
    "Faults of metering (per second)": "there are none",
    "Refused by a budget (per second)": "no budget of this installation is used up",
    "Requests refused (per second)": "there are client keys in managed mode alone",
    "Age of the client keys": "as above",
    "Limits decided without Redis (per second)": "as above",
    "Price changes": "no price list ends within these minutes",
    "Band changes": "the test keeps away from the border of a band",
}


class Question(NamedTuple):
    """One expression: where it stands, and how it is asked (`values` of a label, or a `query`)."""

    board: str
    panel: str
    how: str
    expression: str
    label: str = ""


def questions(folder: Path) -> Iterator[Question]:
    """All of them, board by board."""
    for path in sorted(folder.glob("*.json")):
        board = json.loads(path.read_text())
        yield from _of_panels(board)
        yield from _of_variables(board)
        for mark in board["annotations"].get("list") or []:
            yield Question(board["title"], mark["name"], "mark", _filled(mark["expr"]))


def _of_panels(board: dict[str, Any]) -> Iterator[Question]:
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            yield Question(board["title"], panel["title"] + _column(panel, target), "panel", _filled(target["expr"]))


def _column(panel: dict[str, Any], target: dict[str, Any]) -> str:
    """Which column of a table a query fills, to stand behind the table's title; nothing for other panels."""
    if panel["type"] != "table":
        return ""
    _, organize = panel["transformations"]
    return f": {organize['options']['renameByName']['Value #' + target['refId']]}"


def _of_variables(board: dict[str, Any]) -> Iterator[Question]:
    for variable in board["templating"]["list"]:
        if variable["type"] != "query":
            continue
        series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()  # type: ignore[union-attr]
        yield Question(board["title"], f"${variable['name']}", "variable", _filled(series), label)


def _filled(expression: str) -> str:
    for macro, value in MACROS.items():
        expression = expression.replace(macro, value)
    return re.sub(r"\$[a-z]\w*", ".*", expression)  # `$1` belongs to label_replace
