"""The command `report` as it is typed: its options, and what follows from them. What it does is in `report_command`."""

import sys
from datetime import UTC, datetime

import click

from proxy import report_command, report_table
from proxy.command_options import config_option, guarded, settings_of, wait_option
from proxy.console.app import zone_of
from proxy.reports import document, interval
from proxy.reports.report import GROUPS
from proxy.usage import CURRENCIES


@click.command(epilog="Example: deepseek-meter report --since month --by version,day --format csv")
@config_option
@click.option("--redis", help="Redis URL.  [default: the embedded one of the data dir]")
@click.option("--data-dir", help="Data dir of the installation.  [default: meter-data]")
@click.option("--since", default="24h", show_default=True, help=f"{interval.EXPECTED}.")
@click.option("--until", default="now", show_default=True, help="The same; it is not in the report itself.")
@click.option("--by", default="version", show_default=True, help=f"Any of {','.join(GROUPS)}.")
@click.option("--currency", help="USD, CNY or USD,CNY.  [default: the one of [pricing] billing_currency]")
@click.option("--decimals", type=click.IntRange(2, 9), default=2, show_default=True, help="Of money in the table.")
@wait_option
@click.option("--format", "output", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True)
@guarded
def report(
    *,
    config: str | None,
    redis: str | None,
    data_dir: str | None,
    since: str,
    until: str,
    by: str,
    currency: str | None,
    decimals: int,
    wait: float,
    output: str,
) -> None:
    """Show what it cost: requests, tokens and cost by kind, by version or what else is asked for."""
    settings = settings_of(config, {("store", "redis_url"): redis, ("store", "data_dir"): data_dir})
    zone, now_s = zone_of(settings.console.time_zone), datetime.now(UTC).timestamp()
    currencies = _chosen("--currency", currency.upper() if currency else settings.pricing.billing_currency, CURRENCIES)
    try:
        asked = interval.asked(since, until, now_s, zone)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    groups = _chosen("--by", by, GROUPS)
    made = report_command.make(settings, report_command.Asked(asked, groups, currencies, zone, now_s, wait))
    if output == "table":
        report_table.show(made, decimals)
    else:
        click.echo(document.as_json(made) if output == "json" else document.as_csv(made), nl=output == "json")
    for line in report_command.doubts(made, said=output != "csv"):
        click.echo(f"deepseek-meter: {line}", err=True)
    sys.exit(1 if made.pending else 0)


def _chosen(option: str, text: str, there_are: tuple[str, ...]) -> tuple[str, ...]:
    """The words of a list with commas, each once. Raises UsageError for one that there is not."""
    words = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    if unknown := [word for word in words if word not in there_are]:
        raise click.UsageError(f"{option}: expected some of {', '.join(there_are)}; got {unknown[0]!r}")
    return words
