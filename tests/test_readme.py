"""README's tables are the code's: regenerate them with `python tests/test_readme.py`."""

import re
from pathlib import Path

import click

from proxy import cli
from proxy.console.metrics import GAUGES, PROCESS_COUNTERS, PROCESS_HISTOGRAMS
from proxy.ledger.families import FAMILIES
from proxy.usage import How, Kind, Missing, Outcome, Rule

README = Path(__file__).parent.parent / "README.md"


def commands_table() -> str:
    """Every command with the first sentence of its help."""
    lines = ["| command | does |", "|---|---|"]
    for name, command in sorted(cli.main.commands.items()):
        lines.append(f"| `{name}` | {command.get_short_help_str(200)} |")
    return "\n".join(lines)


def metrics_table() -> str:
    """Every metric with its labels."""
    counters = [(name, family.labels, family.help) for name, family in FAMILIES.items()]
    gauges = [(name, gauge.labels, gauge.help) for name, gauge in GAUGES.items() if not name.startswith("proxy_")]
    processes = {name: gauge for name, gauge in GAUGES.items() if name.startswith("proxy_")}
    processes |= {**PROCESS_COUNTERS, **PROCESS_HISTOGRAMS}
    own = [(name, gauge.labels, gauge.help) for name, gauge in processes.items()]
    return "\n\n".join(
        (_table("from Redis", counters + gauges), _table("of this installation's processes", own)),
    )


def _table(title: str, rows: list[tuple[str, tuple[str, ...], str]]) -> str:
    lines = [f"| metric {title} | labels | what it is |", "|---|---|---|"]
    lines += [f"| `{name}` | {', '.join(labels)} | {text} |" for name, labels, text in rows]
    return "\n".join(lines)


def with_tables(text: str) -> str:
    """README with its generated parts made anew."""
    for name, table in (
        ("commands", commands_table()),
        ("settings", cli.settings_table()),
        ("metrics", metrics_table()),
    ):
        pattern = re.compile(rf"(<!-- {name}: [^>]*-->\n).*?(<!-- end -->)", re.DOTALL)
        text, found = pattern.subn(lambda match, table=table: f"{match[1]}\n{table}\n\n{match[2]}", text)
        assert found == 1, name
    return text


def test_the_tables_are_the_codes():
    """Commands, settings and metrics in README are those of the code."""
    text = README.read_text("utf-8")

    assert with_tables(text) == text


def test_the_closed_lists_are_complete():
    """Every value a label can take stands in README."""
    text = README.read_text("utf-8")
    for values in (Kind, Outcome, Missing, Rule, How):
        for value in values:
            assert f"`{value}`" in text


def test_every_command_has_help_and_an_example():
    """`--help` says what a command does and shows one call of it."""
    groups = [one for one in cli.main.commands.values() if isinstance(one, click.Group)]
    nested = {f"{group.name} {name}": command for group in groups for name, command in group.commands.items()}
    for name, command in {**cli.main.commands, **nested}.items():
        assert isinstance(command, click.Command)
        assert command.help, name
        assert "Example" in (command.epilog or ""), name


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text("utf-8")), "utf-8")
