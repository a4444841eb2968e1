"""SECURITY.md names tests that exist: a promise whose test is gone is none."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "SECURITY.md").read_text("utf-8")
NAME = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)\)")


def functions_of(path):
    return {node.name for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.FunctionDef)}


def test_every_test_it_names_is_there():
    """And every row of the table names one."""
    named = NAME.findall(PAGE)
    rows = [
        line
        for line in PAGE.partition("<!-- tests:")[2].partition("<!-- end -->")[0].splitlines()
        if line.startswith("| ")
    ]

    assert len(named) >= 20
    assert [name for file, name in named if name not in functions_of(ROOT / file)] == []
    assert [row for row in rows[1:] if not NAME.search(row) and "---" not in row] == []


def test_its_table_is_one_table():
    """An empty line would end it, and the rows below be shown as text."""
    table = PAGE.partition("<!-- tests:")[2].partition("-->")[2].partition("<!-- end -->")[0].strip()

    assert [line for line in table.splitlines() if not line.startswith("|")] == []


def test_its_links_lead_somewhere():
    """Files of the repository."""
    assert [target for target in LINK.findall(PAGE) if not (ROOT / target).exists()] == []
