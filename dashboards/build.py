"""Writes the Grafana dashboards of this directory: `python dashboards/build.py`, or `--check` to compare only.

The JSON beside this file is output; a change there is lost. What stands on a dashboard is in the module of its name, how it is
drawn in `drawing`.
"""

import json
import sys
from pathlib import Path

import cost_by_version
import metering_health
import proxy_operations
import versions_compared
from drawing import drawn
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as schema

HERE = Path(__file__).parent
BOARDS = {
    "cost-by-version.json": cost_by_version.BOARD,
    "metering-health.json": metering_health.BOARD,
    "proxy-operations.json": proxy_operations.BOARD,
    "versions-compared.json": versions_compared.BOARD,
}


def rendered(board: schema.Dashboard) -> str:
    """JSON in which a change is a short diff: keys in order, one to a line."""
    return json.dumps(board, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def main(arguments: list[str]) -> int:
    """Writes the files, or with `--check` names those that differ and returns 1."""
    texts = {HERE / name: rendered(drawn(board)) for name, board in BOARDS.items()}
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
