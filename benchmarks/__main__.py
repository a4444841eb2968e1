"""The command line of the benchmarks. Exit code 0: every goal met; 1: one was missed; 2: wrong usage."""

import argparse
import signal
import sys
from pathlib import Path

from benchmarks import durability, metering, pricing, profiled, report, reserve, scrape
from benchmarks.figures import verdicts
from benchmarks.processes import counted_exchanges, started_targets
from benchmarks.rounds import Plan, measure


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for."""
    chosen = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything started is ended
    plan = Plan(chosen.seconds, chosen.rounds, chosen.connections)
    return profiled.main(plan) if chosen.profile else _compare(plan, chosen.json)


def _compare(plan: Plan, json_file: Path | None) -> int:
    with started_targets() as targets:
        rounds, asked = measure(targets, plan, lambda line: print(line, file=sys.stderr))
        counted = counted_exchanges(targets[-1])
    found = verdicts(rounds)
    report.show(rounds, plan, found)
    print(f"metered: {counted:,} of {asked:,} exchanges of the proxy")
    if json_file is not None:
        json_file.write_text(report.document(rounds, plan, found) + "\n")
    rest = [metering.report(plan), pricing.report(), scrape.report(), reserve.report(), durability.report(plan)]
    return 0 if all(verdict.met for verdict in found) and counted == asked and all(rest) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description="Compare: direct, a bare relay, and the proxy.")
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a round  [default: 5]")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per target  [default: 5]")
    parser.add_argument("--connections", type=int, default=32, help="clients of the requests  [default: 32]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every round to this file")
    parser.add_argument("--profile", action="store_true", help="profile a gateway worker instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
