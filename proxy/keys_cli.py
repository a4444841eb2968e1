"""The command line of `keys`: options in, lines out. What is done stands in `keys_command`."""

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, ParamSpec

import click
import msgspec

from proxy import keys_command
from proxy.command_options import config_option, guarded, print_table, settings_of
from proxy.errors import MeterError
from proxy.logs import configure_logging
from proxy.settings import Settings

P = ParamSpec("P")

_COLUMNS: Final = (
    "id", "app", "state", "created", "expires", "last_four", "requests_per_minute", "concurrent", "models", "versions",
    "purposes", "budgets", "note",
)  # fmt: skip
_WIDTH: Final = 200


@click.group(epilog="Example: deepseek-meter keys add --app team-a --models 'deepseek-*' --expires 90d")
def keys() -> None:
    """Make, list and revoke client keys of the managed mode."""


def _installation_options(command: Callable[P, None]) -> Callable[P, None]:
    """Which installation: settings, Redis, data dir."""
    for option in (
        click.option("--data-dir", help="Data dir of the installation.  [default: meter-data]"),
        click.option("--redis", help="Redis URL.  [default: the embedded one of the data dir]"),
        config_option,
    ):
        command = option(command)
    return command


def _said(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str:
    """What was said, or nothing. An option with nothing in it is an unset variable of a shell, and no key without limits."""
    if value is not None and not value.strip():
        raise click.BadParameter("it is empty; leave the option out for a key without that limit")
    return value or ""


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...]:
    """Names that are separated by commas, each once."""
    said = _said(context, parameter, value)
    return tuple(dict.fromkeys(name.strip() for name in said.split(","))) if said else ()


@keys.command(epilog="Example: deepseek-meter keys add --app team-a --models 'deepseek-*' --expires 90d --rpm 600")
@_installation_options
@click.option("--app", required=True, help="App that everything asked with the key is counted for.")
@click.option("--models", callback=_names, help="Models it may ask, by commas; * stands for anything.  [default: all]")
@click.option("--versions", callback=_names, help="Versions that may answer, in the same way.  [default: all]")
@click.option("--purposes", callback=_names, help="production, validation, shadow; the first is the default.")
@click.option("--budgets", callback=_names, help="Names of budgets with for_keys = true that it counts in, by commas.")
@click.option("--expires", callback=_said, help="When it ends, e.g. 90d, 12h, 4w.  [default: never]")
@click.option("--rpm", type=click.IntRange(1, keys_command.MOST_PER_MINUTE), help="Requests in any 60 seconds.")
@click.option("--concurrent", type=click.IntRange(1), help="Exchanges at a time.")
@click.option("--note", default="", help="A word for whoever reads the list.")
@guarded
def add(
    *,
    config: str | None,
    redis: str | None,
    data_dir: str | None,
    rpm: int | None,
    concurrent: int | None,
    **wanted: Any,
) -> None:
    """Make a client key and show it, once: the key alone on standard output, the rest on standard error."""
    settings = _installation(config, redis, data_dir)
    wish = keys_command.Wanted(**wanted)._replace(requests_per_minute=rpm or 0, concurrent=concurrent or 0)
    is_new = not keys_command.is_installation(settings)
    made = keys_command.add(settings, wish, time.time(), secrets.randbelow)
    click.echo(made.text)
    click.echo(f"key {made.key.id} of {made.key.app}: keep it now, it is not shown again", err=True)
    _say_new(settings, is_new=is_new)
    if settings.gateway.mode != "managed":
        click.echo('client keys are asked for with [gateway] mode = "managed"; these settings say otherwise', err=True)
    _say_untold(made.untold)


@keys.command("list", epilog="Example: deepseek-meter keys list --format json")
@_installation_options
@click.option("--format", "output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@guarded
def list_keys(*, config: str | None, redis: str | None, data_dir: str | None, output: str) -> None:
    """Show all client keys and what they open; of the key itself the last four characters."""
    known, untold = keys_command.known_keys(_installation(config, redis, data_dir))
    rows = keys_command.rows(known, time.time())
    if output == "json":
        click.echo(msgspec.json.encode(rows))
    else:
        heads = tuple(name.replace("_", " ") for name in _COLUMNS)
        print_table(heads, [tuple(_shown(row.get(name)) for name in _COLUMNS) for row in rows], _WIDTH)
    if untold:
        raise MeterError(f"{untold}; this is what the data dir knows")


@keys.command(epilog="Example: deepseek-meter keys revoke 4fGh7KpQ")
@_installation_options
@click.argument("key_id", metavar="ID")
@guarded
def revoke(*, config: str | None, redis: str | None, data_dir: str | None, key_id: str) -> None:
    """Revoke a client key for good: within two seconds no worker lets it in. Exchanges under way go on."""
    settings = _installation(config, redis, data_dir)
    is_new = not keys_command.is_installation(settings)
    revoked, untold = keys_command.revoke(settings, key_id, time.time())
    click.echo(f"key {revoked} is revoked")
    _say_new(settings, is_new=is_new)
    _say_untold(untold)


def _installation(config: str | None, redis: str | None, data_dir: str | None) -> Settings:
    settings = settings_of(config, {("store", "redis_url"): redis, ("store", "data_dir"): data_dir})
    configure_logging(
        msgspec.structs.replace(settings.log, level="error")
    )  # what is news to a worker is asked for here
    return settings


def _say_new(settings: Settings, *, is_new: bool) -> None:
    """A relative path and another working directory make a data dir that nobody serves from: it is not to go unseen."""
    if is_new:
        place = Path(settings.store.data_dir).resolve()
        click.echo(f"made a new data dir: {place} had no installation in it", err=True)


def _say_untold(untold: str) -> None:
    if untold:
        raise MeterError(
            f"{untold}; it is noted in the data dir, holds for the workers there, and for all once Redis is back"
        )


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(value) or "-"
    return str(value) if value else "-"
