"""`make chaos`: the published proof. Exit code 0 if nothing was lost, counted twice or off, in every run; else 1."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from chaos.run import Plan, Result, run
from rich.console import Console as Terminal
from rich.table import Table

HEADS = ("fault", "exchanges", "end seen", "interrupted", "lost", "double", "tokens off", "cost off (nano-USD)")


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="chaos", description="Kill things under traffic, then compare the books.")
    parser.add_argument("--seed", type=int, default=1, help="seed of the first run  [default: 1]")
    parser.add_argument("--runs", type=int, default=1, help="runs, each with the next seed  [default: 1]")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of a run  [default: 60]")
    parser.add_argument("--clients", type=int, default=64, help="clients at once  [default: 64]")
    parser.add_argument("--keep", metavar="DIR", help="keep logs and data there")
    chosen = parser.parse_args()
    clean = True
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        result = _one(seed, chosen)
        _show(result)
        clean = clean and result.clean
    return 0 if clean else 1


def _one(seed: int, chosen: argparse.Namespace) -> Result:
    with tempfile.TemporaryDirectory(prefix="deepseek-meter-chaos-") as temporary:
        folder = Path(chosen.keep or temporary) / f"seed-{seed}"
        folder.mkdir(parents=True)
        return asyncio.run(run(folder, Plan(seed, chosen.seconds, chosen.clients)))


def _show(result: Result) -> None:
    terminal = Terminal(width=130)
    table = Table(*HEADS, title=f"seed {result.seed}", title_justify="left")
    for row in result.rows:
        table.add_row(
            row.fault,
            *(f"{value:,}" for value in (row.exchanges, row.ended, row.interrupted)),
            *(f"{value:,}" for value in (row.lost, row.double, row.tokens_off, row.cost_off_nanos)),
        )
    terminal.print(table)
    terminal.print(
        f"counters against the sum of the records: off by {result.totals_off:,}; processes killed: {result.killed}; "
        f"connections cut behind a script: {result.cuts}; verify: {result.verify}",
        highlight=False,
    )
    if result.resets is not None:
        terminal.print(
            f"Prometheus (1 s scrapes): counters that fell: {result.resets}; "
            f"increase() of all tokens / tokens counted: {result.increase_share:.3f}",
            highlight=False,
        )
    terminal.print("CLEAN" if result.clean else "NOT CLEAN", highlight=False)


if __name__ == "__main__":
    sys.exit(main())
