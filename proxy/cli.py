"""The command line: `deepseek-meter`, also `python -m proxy`. Reads files and the environment, then hands over.

Exit codes: 0 fine, 1 found something or failed, 2 wrong usage. A MeterError is one line on standard error; a traceback is
a bug of ours.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from proxy import audit_command, verify_command
from proxy.catalog_files import catalog_with
from proxy.check_command import settings_to_look_at, store_lines, to_look_at
from proxy.child import keep_secrets_in
from proxy.command_options import config_option, guarded, print_table, read_file, settings_of, wait_option
from proxy.console.app import token_of, zone_of
from proxy.demo_process import DemoOrders
from proxy.errors import MeterError
from proxy.gateway_process import open_store
from proxy.keys_check import key_lines
from proxy.keys_cli import keys
from proxy.logs import configure_logging
from proxy.price_command import Asked, Where, price_row
from proxy.pricing.budgets import budgets_of
from proxy.report_cli import report
from proxy.settings import Settings, load_settings, setting_rows, split_address, unknown_variables
from proxy.simulator.scenario import Scenario, default_scenario, parse_scenario
from proxy.simulator.server import serve as serve_simulator
from proxy.supervisor import Child, Supervisor
from proxy.tls import check_tls, scheme
from proxy.upstreams import keys_of
from proxy.usage import METERED_APIS, Api


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="deepseek-meter")
def main() -> None:
    """Meter what each version of DeepSeek's models costs you.

    Start with `deepseek-meter demo`, then `deepseek-meter serve` and point your application's base_url at it.
    """


@main.command(epilog="Example: deepseek-meter serve --workers 4 --redis redis://127.0.0.1:6379/0")
@config_option
@click.option("--listen", help="Address of the API port.  [default: 127.0.0.1:8400]")
@click.option("--console", help="Address of the console port.  [default: 127.0.0.1:8401]")
@click.option("--upstream", help="Base URL of the upstream.  [default: https://api.deepseek.com]")
@click.option("--redis", help="Redis URL.  [default: an embedded Redis in the data dir]")
@click.option("--data-dir", help="Journals, embedded Redis, secrets.  [default: meter-data]")
@click.option("--workers", type=int, help="Gateway processes.  [default: 1]")
@guarded
def serve(config: str | None, **flags: Any) -> None:
    """Run the proxy."""
    settings = settings_of(config, _serve_flags(**flags))
    _serve(settings, lambda: _announce(settings))


@main.command(epilog="Example: deepseek-meter simulate --listen 127.0.0.1:8500")
@click.option("--listen", default="127.0.0.1:8500", show_default=True, help="Address to listen on.")
@click.option("--scenario", type=click.Path(dir_okay=False), help="Scenario file (TOML).  [default: built in]")
@guarded
def simulate(listen: str, scenario: str | None) -> None:
    """Run a DeepSeek API that costs nothing and keeps a ledger of what it billed."""
    host, port = split_address(listen, "--listen")
    _run_simulator(host, port, _scenario(scenario))


@main.command(epilog="Example: deepseek-meter demo, then open the URLs it prints; Ctrl-C ends it.")
@click.option("--data-dir", default="demo-data", show_default=True, help="Where the demo keeps its counters.")
@click.option("--listen", default="127.0.0.1:8400", show_default=True, help="Address of the API port.")
@click.option("--console", default="127.0.0.1:8401", show_default=True, help="Address of the console port.")
@click.option("--simulator", default="127.0.0.1:8500", show_default=True, help="Address of the simulator.")
@click.option("--rate", default=8.0, show_default=True, help="Requests per second.")
@guarded
def demo(data_dir: str, listen: str, console: str, simulator: str, rate: float) -> None:
    """Run proxy, simulator and steady mixed traffic, without a key and without cost."""
    flags = {
        ("gateway", "listen"): listen,
        ("gateway", "workers"): 2,
        ("console", "listen"): console,
        ("console", "new_series_hold_seconds"): 0.0,
        ("upstream", "url"): f"http://{simulator}",
        ("store", "data_dir"): data_dir,
        ("log", "exchanges"): False,  # else what to open is out of sight within a second
    }
    settings = load_settings(environment=os.environ, flags=flags)
    companion = Child("demo", "proxy.demo_process", DemoOrders(simulator, f"http://{listen}", rate, settings.log))
    _serve(settings, lambda: _announce_demo(settings, simulator), (companion,))


@main.command(epilog='Example: deepseek-meter prices --model deepseek-flash --at "2026-11-23T02:00:00Z"')
@config_option
@click.option("--at", help="Instant, ISO 8601, UTC unless it says otherwise.  [default: now]")
@click.option("--model", default="", help="Name as requested, e.g. deepseek-flash.")
@click.option("--version", "version_id", default="", help="Catalog version, e.g. DeepSeek-V4-Pro-0813.")
@click.option("--upstream", default="", help="Upstream of meter.toml.  [default: the one of the model or version]")
@click.option(
    "--api",
    type=click.Choice([api.value for api in Api if api in METERED_APIS]),
    default="chat",
    show_default=True,
    help="Dialect; on `anthropic` other makers' names mean something.",
)
@click.option("--currency", type=click.Choice(["USD", "CNY"]), default="USD", show_default=True)
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@guarded
def prices(
    *,
    config: str | None,
    at: str | None,
    model: str,
    version_id: str,
    upstream: str,
    api: str,
    currency: str,
    output: str,
) -> None:
    """Show the price in force at an instant: version, band, price per kind, price id, source."""
    if not model and not version_id:
        raise click.UsageError("give --model or --version")
    settings = settings_of(config, {})
    if upstream and upstream not in settings.all_upstreams():
        raise click.UsageError(f"--upstream: expected {', '.join(settings.all_upstreams())}; got {upstream!r}")
    catalog, when = catalog_with(settings.pricing.catalog_file), _instant(at).astimezone(UTC)
    asked = Asked(model, version_id, upstream, api)
    row = price_row(catalog, when, Where(settings), asked, currency)
    if output == "json":
        click.echo(msgspec.json.encode(row))
    else:
        print_table(("", ""), [(name, _cell(value)) for name, value in row.items()])
    if row["price_id"] is None:
        sys.exit(1)


@main.command(epilog="Example: deepseek-meter check --config meter.toml")
@config_option
@click.option("--redis", help="Redis URL.  [default: the embedded one of the data dir]")
@click.option("--data-dir", help="Data dir of the installation.  [default: meter-data]")
@guarded
def check(*, config: str | None, redis: str | None, data_dir: str | None) -> None:
    """Validate settings, catalog and prices; name what is stale and which models have no price."""
    settings = settings_of(config, {("store", "redis_url"): redis, ("store", "data_dir"): data_dir})
    upstream_keys, catalog = keys_of(settings, os.environ), catalog_with(settings.pricing.catalog_file)
    zone_of(settings.console.time_zone)
    token_of(settings.console.token_file)
    budgets_of(settings)
    check_tls(settings)
    found = [f"environment: {name} is no setting" for name in unknown_variables(os.environ)]
    now = datetime.now(UTC)
    found += (
        settings_to_look_at(settings, catalog, upstream_keys) + to_look_at(catalog, now) + store_lines(settings, now)
    )
    found += key_lines(settings, catalog, now.timestamp())
    for line in found:
        click.echo(line)
    click.echo(f"settings and catalog are valid; {len(found)} to look at")
    sys.exit(1 if found else 0)


@main.command(epilog="Example: deepseek-meter verify --format json")
@config_option
@click.option("--redis", help="Redis URL.  [default: the embedded one of the data dir]")
@click.option("--data-dir", help="Data dir of the installation.  [default: meter-data]")
@click.option("--refill", is_flag=True, help="After a wiped Redis: send again what the journals still hold.")
@click.option("--audit", is_flag=True, help="Prove the audit trail instead: unbroken, and the same here and in Redis.")
@click.option(
    "--heads", multiple=True, metavar="FILE", help="With --audit: a log with audit_head lines; - reads stdin."
)
@wait_option
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@guarded
def verify(
    *,
    config: str | None,
    redis: str | None,
    data_dir: str | None,
    refill: bool,
    audit: bool,
    heads: tuple[str, ...],
    wait: float,
    output: str,
) -> None:
    """Compare journals with Redis: what is missing, double or pending; or prove the audit trail."""
    if heads and not audit:
        raise click.UsageError("--heads belongs to --audit")
    if refill and audit:
        raise click.UsageError("--refill and --audit are two commands")
    settings = settings_of(config, {("store", "redis_url"): redis, ("store", "data_dir"): data_dir})
    if audit:
        proof = audit_command.prove(settings, heads, wait)
        if output == "json":
            click.echo(audit_command.as_json(proof))
        else:
            audit_command.show(proof, heads_given=bool(heads))
        sys.exit(0 if proof.fine else 1)
    findings, refilled = verify_command.compare(settings, refilling=refill, wait_s=wait)
    if refill:
        audit_command.note_refill(settings, refilled)
    if output == "json":
        click.echo(verify_command.as_json(findings, refilled))
    else:
        verify_command.show(findings, refilled)
    sys.exit(0 if findings.fine else 1)


main.add_command(keys)
main.add_command(report)


def _serve(settings: Settings, announce: Callable[[], None], companions: tuple[Child, ...] = ()) -> None:
    configure_logging(settings.log)
    zone_of(settings.console.time_zone)
    token_of(settings.console.token_file)
    budgets_of(settings)
    check_tls(settings)
    catalog_with(settings.pricing.catalog_file)
    for name in unknown_variables(os.environ):
        click.echo(f"deepseek-meter: {name} in the environment is no setting; it is not used", err=True)
    keep_secrets_in()
    Supervisor(settings, lambda url: asyncio.run(_check_store(settings, url)), companions).run(announce)


async def _check_store(settings: Settings, url: str) -> list[str]:
    store = open_store(settings, url)
    try:
        await store.prepare()
        return await store.doubts()
    finally:
        await store.close()


def _announce(settings: Settings) -> None:
    gateway, console = settings.gateway, settings.console
    click.echo(f"API      {scheme(gateway.tls_certificate_file)}://{gateway.listen}  -> {settings.upstream.url}")
    click.echo(f"console  {scheme(console.tls_certificate_file)}://{console.listen}/metrics")


def _announce_demo(settings: Settings, simulator: str) -> None:
    _announce(settings)
    click.echo(f"billed   http://{simulator}/_simulator/ledger")
    click.echo("Traffic has begun; watch tokens and cost move:")
    click.echo(f"  curl -s http://{settings.console.listen}/metrics | grep -E 'deepseek_meter_(tokens|cost_usd)_total'")


def _scenario(path: str | None) -> Scenario:
    """The scenario of a file, or the built-in one. Raises SettingsError."""
    return parse_scenario(read_file(path, "--scenario"), path) if path else default_scenario()


def _run_simulator(host: str, port: int, scenario: Scenario) -> None:
    try:
        asyncio.run(serve_simulator(host, port, scenario))
    except OSError as error:
        raise MeterError(f"--listen {host}:{port}: {error.strerror or error}") from error
    except KeyboardInterrupt:
        return


def _serve_flags(**flags: Any) -> dict[tuple[str, str], Any]:
    return {
        ("gateway", "listen"): flags["listen"],
        ("gateway", "workers"): flags["workers"],
        ("console", "listen"): flags["console"],
        ("upstream", "url"): flags["upstream"],
        ("store", "redis_url"): flags["redis"],
        ("store", "data_dir"): flags["data_dir"],
    }


def _instant(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"--at: expected an instant such as 2026-11-23T02:00:00Z, got {text!r}") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return "\n".join(f"{kind}  {price}" for kind, price in value.items())
    return "-" if value is None else str(value)


def settings_table() -> str:
    """README's settings table, generated so that it cannot differ from the code."""
    lines = ["| `meter.toml` | environment | default | what it sets |", "|---|---|---|---|"]
    for row in setting_rows():
        default = "" if row.default in ("", ()) else f"`{row.default}`"
        lines.append(f"| `[{row.section}] {row.key}` | `{row.variable}` | {default} | {row.help} |")
    return "\n".join(lines)
