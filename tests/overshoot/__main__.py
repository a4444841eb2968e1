"""`python -m overshoot`: every plan, one line each, and what was promised of it."""

import sys
import tempfile
from pathlib import Path

import click

from overshoot.run import Plan, Result, run

CLIENTS = (1, 16, 128, 512)
LEARNED_AT_MOST = 0.02
HEAD = f"{'reserve':11} {'clients':>7} {'Redis killed':13} {'spent / limit':>13} {'answered':>8} {'refused':>7} {'503':>5} {'phantom':>7} {'leaks':>5}"


def plans() -> list[Plan]:
    """Both ways to reserve at every number of clients; then an outage, as each setting wants it."""
    found = [Plan(reserve, clients) for reserve in ("worst_case", "likely") for clients in CLIENTS]
    return [
        *found,
        *(Plan(reserve, 16, policy) for reserve in ("worst_case", "likely") for policy in ("refuse", "allow")),
    ]


def line(result: Result) -> str:
    plan = result.plan
    leaks = result.leaked_holds + (result.leaked_nanos > 0)
    return (
        f"{plan.reserve:11} {plan.clients:7} {plan.on_store_down or '-':13} {1 + result.overshoot:13.4f} {result.answered:8} "
        f"{result.refused:7} {result.unavailable:5} {result.phantom:7} {leaks:5}"
    )


def broken(result: Result) -> str:
    """What does not hold; empty where all does. With `allow`, what passes while Redis is away is spent, wherever the limit lies."""
    plan = result.plan
    most = 0.0 if plan.reserve == "worst_case" else LEARNED_AT_MOST
    found = {
        f"{result.leaked_holds} reservations and {result.leaked_nanos} nano-dollars leaked": result.leaked_holds
        or result.leaked_nanos,
        f"{result.phantom} refusals that were none": result.phantom,
        f"spent {result.spent_nanos}, billed {result.billed_nanos} nano-dollars": result.spent_nanos
        != result.billed_nanos,
        "nothing was refused while Redis was away": plan.on_store_down == "refuse" and not result.unavailable,
        "something was refused while Redis was away": plan.on_store_down == "allow" and result.unavailable,
        f"overshot by {result.overshoot:.2%}": plan.on_store_down != "allow" and result.overshoot > most,
    }
    return ", ".join(problem for problem, is_so in found.items() if is_so)


@click.command()
@click.option("--clients", type=int, help="Only plans with so many clients.")
@click.option("--reserve", type=click.Choice(["worst_case", "likely"]), help="Only plans that reserve so.")
def main(clients: int | None, reserve: str | None) -> None:
    """Clients that ask all at once, against one budget."""
    click.echo(HEAD)
    problems = []
    for plan in plans():
        if clients not in (None, plan.clients) or reserve not in (None, plan.reserve):
            continue
        with tempfile.TemporaryDirectory() as folder:
            result = run(Path(folder), plan)
        click.echo(line(result))
        if problem := broken(result):
            problems.append(f"{plan}: {problem}")
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
