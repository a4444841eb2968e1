"""Settings out of a file, an environment and flags: one typed table, or an error that says what was expected where.

Order of precedence: command-line flags, then the environment (`METER_SECTION_KEY`), then `meter.toml`, then the defaults.
Nothing is read here: texts and mappings come in as arguments, so that a test needs no files and no environment.
A key that does not exist or a value of the wrong kind is an error that names the file or variable and what was
expected; an unknown `METER_…` variable is only reported, because Kubernetes injects such names for a service called "meter".
"""

import tomllib
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from proxy.errors import SettingsError
from proxy.settings.sections import DEFAULT_UPSTREAM, SECTIONS, Settings
from proxy.settings.wording import in_words

ENVIRONMENT_PREFIX = "METER_"


class SettingRow(msgspec.Struct, frozen=True):
    """One row of the settings table: everything a reader of the docs wants to know of a key."""

    section: str
    key: str
    variable: str
    default: Any
    help: str


def setting_rows() -> Iterator[SettingRow]:
    """Every setting, in the order of this file."""
    for section in SECTIONS:
        hints = get_type_hints(section.type, include_extras=True)
        for field in msgspec.structs.fields(section.type):
            variable = variable_name(section.name, field.name)
            yield SettingRow(section.name, field.name, variable, field.default, _description(hints[field.name]))


def variable_name(section: str, key: str) -> str:
    """The environment variable of a setting: `METER_UPSTREAM_URL` for `[upstream] url`."""
    return f"{ENVIRONMENT_PREFIX}{section}_{key}".upper()


def load_settings(
    *,
    toml_text: str = "",
    toml_name: str = "meter.toml",
    environment: Mapping[str, str] | None = None,
    flags: Mapping[tuple[str, str], Any] | None = None,
) -> Settings:
    """Settings from the text of a file, an environment and flags (`{("gateway", "workers"): 4}`; None = not given).

    Raises SettingsError for the first thing that is wrong, naming the file or variable, the key and what was expected.
    """
    tables = _parse_toml(toml_text, toml_name)
    _convert(tables, toml_name)
    for row in setting_rows():
        text = (environment or {}).get(row.variable)
        if text is not None:
            tables.setdefault(row.section, {})[row.key] = _from_variable(row, text)
    for (section, key), value in (flags or {}).items():
        if value is not None:
            tables.setdefault(section, {})[key] = value
    settings = _convert(tables, "command line")
    _check_together(settings, toml_name)
    return settings


def _check_together(settings: Settings, where: str) -> None:
    """Raises SettingsError for upstreams that cannot stand side by side, and keys that would go where they should not."""
    checks = (_upstream_problems, _key_problems, _app_problems, _fixed_problems, _budget_problems)
    problems = chain.from_iterable(check(settings) for check in checks)
    problem = next(problems, None)
    if problem:
        raise SettingsError(f"{where}: {problem}")


def _upstream_problems(settings: Settings) -> Iterator[str]:
    owners: dict[str, str] = {}
    names = [DEFAULT_UPSTREAM]
    for upstream in settings.upstreams:
        if upstream.name in names:
            yield f"[[upstreams]] name: there is an upstream {upstream.name} already"
        names.append(upstream.name)
        for model in upstream.models:
            if model in owners:
                yield f"[[upstreams]] {upstream.name}: {model} goes to {owners[model]} already"
            owners[model] = upstream.name


def _fixed_problems(settings: Settings) -> Iterator[str]:
    for version, one in settings.versions.items():
        if one.fixed and one.fixed.upstream and one.fixed.upstream not in settings.all_upstreams():
            yield f'[versions."{version}".fixed] upstream: there is no upstream {one.fixed.upstream}'


def _budget_problems(settings: Settings) -> Iterator[str]:
    names: set[str] = set()
    for budget in settings.budgets:
        if budget.name in names:
            yield f"[[budgets]] name: there is a budget {budget.name} already"
        names.add(budget.name)
        if budget.rolling_hours is not None and budget.period:
            yield f"[[budgets]] {budget.name}: expected one of period and rolling_hours; a rolling budget has no period"
        if budget.rolling_hours is not None and budget.time_zone:
            yield f"[[budgets]] {budget.name}: a rolling budget has no time zone"
        if budget.action == "alert" and (budget.reserve, budget.on_store_down) != ("likely", "allow"):
            yield f'[[budgets]] {budget.name}: reserve and on_store_down are of budgets with action = "refuse"'


def _key_problems(settings: Settings) -> Iterator[str]:
    every = settings.all_upstreams()
    accepting = [name for name, upstream in every.items() if upstream.accepts_client_keys]
    if len(accepting) > 1:
        yield (
            f"accepts_client_keys: a client's key goes to one upstream, not to {', '.join(accepting)}; "
            "set it to false for the others"
        )
    if settings.gateway.mode == "managed":
        return
    for name, upstream in every.items():
        if upstream.key_file:
            yield f'{name}: key_file: an upstream with a key of its own wants [gateway] mode = "managed", else anybody uses it'


def _app_problems(settings: Settings) -> Iterator[str]:
    owners = settings.apps_by_key()
    for app, one in settings.apps.items():
        for name in one.keys:
            if owners[name] != app:
                yield f'[apps."{app}"] keys: {name} is {owners[name]} already'


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names that begin like our variables and are none: most likely misspelt."""
    known = {row.variable for row in setting_rows()}
    return sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in known)


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name}: not valid TOML: {error}") from error


def _convert(tables: Mapping[str, Any], where: str) -> Settings:
    try:
        return msgspec.convert(tables, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {in_words(error, Settings, tables)}") from error


def _from_variable(row: SettingRow, text: str) -> Any:
    """The value of an environment variable, checked against its setting alone. Lists are separated by commas."""
    section_type = {field.name: field.type for field in SECTIONS}[row.section]
    hint = get_type_hints(section_type, include_extras=True)[row.key]
    raw: Any = [part.strip() for part in text.split(",") if part.strip()] if isinstance(row.default, tuple) else text
    try:
        return msgspec.convert(raw, hint, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{row.variable}: {in_words(error, hint, {})}") from error


def _description(hint: Any) -> str:
    """The help text in a (nested) `Annotated[...]`."""
    if get_origin(hint) is Annotated:
        for meta in get_args(hint)[1:]:
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    return ""
