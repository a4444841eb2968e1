"""What the commands share: settings out of a file and flags, errors as one line and an exit code, tables."""

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import update_wrapper
from pathlib import Path
from typing import Any, Final, ParamSpec

import click
from rich.console import Console as Terminal
from rich.table import Table
from rich.text import Text

from proxy.errors import MeterError, SettingsError
from proxy.settings import Settings, load_settings

P = ParamSpec("P")

DEFAULT_CONFIG: Final = "meter.toml"


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Turn a MeterError into its line and its exit code."""

    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except MeterError as error:
            click.echo(f"deepseek-meter: {error}", err=True)
            sys.exit(error.exit_code)

    return update_wrapper(run, command)


config_option = click.option("--config", type=click.Path(dir_okay=False), help="Settings file.  [default: meter.toml]")
wait_option = click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds that pending records are given to arrive.",
)


def settings_of(config: str | None, flags: Mapping[tuple[str, str], Any]) -> Settings:
    """Settings of a file that was named, of `meter.toml` if it is there, or without a file."""
    name = config or DEFAULT_CONFIG
    text = read_file(name, "--config") if config or Path(name).exists() else ""
    return load_settings(toml_text=text, toml_name=name, environment=os.environ, flags=flags)


def read_file(path: str, option: str) -> str:
    """The text of a file that an option names. Raises SettingsError."""
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{option} {path}: cannot be read: {error}") from error


def print_table(heads: tuple[str, ...], rows: Iterable[Sequence[str]], width: int | None = None) -> None:
    """Rows under their heads; without heads where all are empty. `width` in characters, else the terminal's.

    Cells stand there as they are: names and settings hold brackets and colons, which Rich takes for styles and pictures.
    """
    table = Table(*heads, show_header=any(heads), box=None)
    for row in rows:
        table.add_row(*map(Text, row))
    Terminal(width=width).print(table)


def print_lines(lines: Iterable[str], width: int) -> None:
    """Lines as they are, as `print_table` prints cells."""
    terminal = Terminal(width=width)
    for line in lines:
        terminal.print(Text(line))
