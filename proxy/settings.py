"""Every setting, once: section, key, type, default, bounds and help. README's table is generated from here.

Order of precedence: command-line flags, then the environment (`METER_SECTION_KEY`), then `meter.toml`, then the defaults.
Nothing is read here: texts and mappings come in as arguments, so that a test needs no files and no environment.
A key that does not exist or a value of the wrong kind is an error that names the file or variable and what was
expected; an unknown `METER_…` variable is only reported, because Kubernetes injects such names for a service called "meter".
"""

import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from proxy.errors import SettingsError

ENVIRONMENT_PREFIX = "METER_"

_SECRETS = frozenset({"key_hash_secret"})


def _without_secret(name: str, value: object) -> str:
    """A setting as it may be shown: secrets and the credentials of URLs are left out."""
    if name in _SECRETS:
        return "'***'" if value else "''"
    return repr(without_credentials(value)) if name.endswith("url") and isinstance(value, str) else repr(value)


def without_credentials(url: str) -> str:
    """A URL as it may be shown: user and password are left out, and the query, where Redis takes them too."""
    scheme, mark, rest = url.partition("://")
    place, question, _ = rest.rpartition("@")[2].partition("?")
    return f"{scheme}{mark}{'***@' if '@' in rest else ''}{place}{question and '?***'}"


Seconds = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A table of `meter.toml`. Unknown keys are errors, because a misspelt limit is no limit."""

    def __repr__(self) -> str:
        shown = (f"{name}={_without_secret(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"


class GatewaySettings(_Section, frozen=True):
    """The API port: what applications point `base_url` at."""

    listen: Annotated[str, Meta(description="address of the API port")] = "127.0.0.1:8400"
    workers: Annotated[int, Meta(ge=1, le=128, description="gateway processes that share the API port")] = 1
    max_request_bytes: Annotated[Count, Meta(description="largest request body that is relayed; above it: 413")] = (
        64 * 1024 * 1024
    )
    shutdown_grace_seconds: Annotated[
        float, Meta(ge=0, description="how long open exchanges may finish after a stop was asked for")
    ] = 30.0
    on_mismatch: Annotated[
        Literal["count", "refuse"],
        Meta(
            description="`X-Meter-Expect-Version` and the name asked for means another version: `count` relays and counts, `refuse` answers 409"
        ),
    ] = "count"
    key_hash_secret: Annotated[
        str,
        Meta(
            description="secret of the keyed hash that names an app by its API key; replicas share it. Empty: made once in the data dir"
        ),
    ] = ""


class UpstreamSettings(_Section, frozen=True):
    """The API that answers."""

    url: Annotated[str, Meta(pattern="^https?://", description="base URL of the upstream")] = "https://api.deepseek.com"
    connect_timeout_seconds: Annotated[Seconds, Meta(description="DNS, TCP and TLS together")] = 10.0
    idle_timeout_seconds: Annotated[
        Seconds, Meta(description="longest silence of the upstream, before or inside a body")
    ] = 660.0
    total_timeout_seconds: Annotated[
        Seconds, Meta(description="longest exchange, from the request to the last byte")
    ] = 7200.0
    keepalive_seconds: Annotated[Seconds, Meta(description="how long an idle pooled connection is kept")] = 15.0
    ca_file: Annotated[str, Meta(description="own CA bundle (PEM) for TLS to the upstream; empty: the system's")] = ""
    habits: Annotated[
        Literal["deepseek", "other"],
        Meta(
            description="`deepseek`: streams one token a delta and puts its own text before a thinking prompt; `other`: the tokenizer counts"
        ),
    ] = "deepseek"
    add_include_usage: Annotated[
        bool,
        Meta(
            description="ask for usage in streams whose client does not say, and take the extra chunk out again; for hosts that report none unasked"
        ),
    ] = False
    on_client_disconnect: Annotated[
        Literal["abort", "drain"],
        Meta(
            description="client gone: `abort` closes the upstream and estimates; `drain` reads on to the usage, which costs what it says"
        ),
    ] = "abort"
    drain_seconds: Annotated[Seconds, Meta(description="longest time an exchange is drained")] = 120.0
    drain_tokens: Annotated[Count, Meta(description="most output tokens until which an exchange is drained")] = 8192


class ConsoleSettings(_Section, frozen=True):
    """The console port: metrics and health."""

    listen: Annotated[str, Meta(description="address of the console port")] = "127.0.0.1:8401"
    token_file: Annotated[
        str, Meta(description="file with the bearer token of /metrics; needed to listen beyond loopback")
    ] = ""
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(description="further names the Host header may carry, beside loopback and the listening address"),
    ] = ()
    new_series_hold_seconds: Annotated[
        float,
        Meta(ge=0, description="a series new at run time shows 0 for so long, so that `increase()` misses nothing"),
    ] = 15.0
    created_samples: Annotated[bool, Meta(description="also expose `_created` samples in OpenMetrics")] = False
    time_zone: Annotated[str, Meta(description="IANA time zone in which `today` and `month` of `spend_usd` begin")] = (
        "UTC"
    )


class StoreSettings(_Section, frozen=True):
    """Where counters live."""

    redis_url: Annotated[
        str,
        Meta(
            description="redis://, rediss://, unix://, redis+cluster:// or redis+sentinel://HOST:PORT,…/SERVICE URL; empty: an embedded Redis in the data dir"
        ),
    ] = ""
    namespace: Annotated[
        str, Meta(pattern="^[A-Za-z0-9_.-]{1,64}$", description="keeps several installations on one Redis apart")
    ] = "default"
    data_dir: Annotated[
        str, Meta(min_length=1, description="directory of journals, the embedded Redis and secrets")
    ] = "meter-data"
    connect_timeout_seconds: Annotated[Seconds, Meta(description="connect to Redis")] = 3.0
    operation_timeout_seconds: Annotated[Seconds, Meta(description="one answer of Redis")] = 10.0
    records_kept: Annotated[int, Meta(ge=0, le=1_000_000, description="newest records kept in Redis, one by one")] = (
        10_000
    )
    minute_rollups_kept_hours: Annotated[Count, Meta(description="retention of the rollups per minute")] = 48
    hour_rollups_kept_days: Annotated[Count, Meta(description="retention of the rollups per hour; per day is kept")] = (
        35
    )


class JournalSettings(_Section, frozen=True):
    """The local disk between an exchange and Redis."""

    fsync: Annotated[
        Literal["interval", "always", "never"],
        Meta(description="when a written record is forced to the disk: `interval`, `always` or `never`"),
    ] = "interval"
    fsync_interval_seconds: Annotated[
        Seconds, Meta(description="pause between two fsyncs with `interval`; also the pace of shipping")
    ] = 0.2
    on_unwritable: Annotated[
        Literal["relay", "refuse"],
        Meta(
            description="while the journal cannot be written: `relay` goes on, counts and shouts; `refuse` answers 503"
        ),
    ] = "relay"
    segment_bytes: Annotated[int, Meta(ge=4096, description="size at which the next segment file begins")] = (
        16 * 1024 * 1024
    )
    keep_seconds: Annotated[float, Meta(ge=0, description="how long applied segments are kept for a replay")] = 3600.0
    keep_bytes: Annotated[
        int, Meta(ge=0, description="how much of applied segments is kept for a replay, per journal")
    ] = 256 * 1024 * 1024


class MeteringSettings(_Section, frozen=True):
    """How tokens are counted that no host reports."""

    estimate_sample: Annotated[
        float,
        Meta(
            ge=0,
            le=1,
            description="share of the exchanges with a reported usage that are estimated as well, to calibrate the estimates",
        ),
    ] = 0.01
    count_timeout_seconds: Annotated[
        Seconds, Meta(description="longest wait for the tokenizer; after it an estimate goes by size")
    ] = 5.0


class PricingSettings(_Section, frozen=True):
    """How tokens become money."""

    catalog_file: Annotated[
        str,
        Meta(
            description="own versions, names, prices and holidays (TOML) over the shipped ones; taken over live when it changes"
        ),
    ] = ""
    instant: Annotated[Literal["end", "start"], Meta(description="which instant of an exchange decides its price")] = (
        "end"
    )


class LogSettings(_Section, frozen=True):
    """What is written to standard error. Prompts, answers and keys never are."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severity that is written")
    ] = "info"
    format: Annotated[Literal["json", "text"], Meta(description="`json`: one object a line; `text`: readable")] = "text"


class VersionSettings(_Section, frozen=True):
    """What an operator sets for one version: `[versions."DeepSeek-V4-Pro-0813"]`. Has no environment variable."""

    spend_limit_usd_per_hour: Annotated[float, Meta(gt=0)] | None = None


class AppSettings(_Section, frozen=True):
    """What an operator sets for one app: `[apps.NAME]`; what is left out is the upstream's. Has no environment variable."""

    on_client_disconnect: Literal["abort", "drain"] | None = None
    drain_seconds: Seconds | None = None
    drain_tokens: Count | None = None


class Settings(_Section, frozen=True):
    """All sections. Frozen: a change of settings is a new object."""

    gateway: GatewaySettings = GatewaySettings()
    upstream: UpstreamSettings = UpstreamSettings()
    console: ConsoleSettings = ConsoleSettings()
    store: StoreSettings = StoreSettings()
    journal: JournalSettings = JournalSettings()
    metering: MeteringSettings = MeteringSettings()
    pricing: PricingSettings = PricingSettings()
    log: LogSettings = LogSettings()
    versions: dict[str, VersionSettings] = {}
    apps: dict[str, AppSettings] = {}


_NAMED: Final = frozenset({"versions", "apps"})
"""Sections of which there is one per name."""

SECTIONS = tuple(field for field in msgspec.structs.fields(Settings) if field.name not in _NAMED)


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
    return _convert(tables, "command line")


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names that begin like our variables and are none: most likely misspelt."""
    known = {row.variable for row in setting_rows()}
    return sorted(name for name in environment if name.startswith(ENVIRONMENT_PREFIX) and name not in known)


def split_address(address: str, setting: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; SettingsError names `setting` where it is neither."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{setting}: expected HOST:PORT, got {address!r}")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """True for an address only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _parse_toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{name}: not valid TOML: {error}") from error


def _convert(tables: Mapping[str, Any], where: str) -> Settings:
    try:
        return msgspec.convert(tables, Settings)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{where}: {_readable(error)}") from error


def _from_variable(row: SettingRow, text: str) -> Any:
    """The value of an environment variable, checked against its setting alone. Lists are separated by commas."""
    section_type = {field.name: field.type for field in SECTIONS}[row.section]
    hint = get_type_hints(section_type, include_extras=True)[row.key]
    raw: Any = [part.strip() for part in text.split(",") if part.strip()] if isinstance(row.default, tuple) else text
    try:
        return msgspec.convert(raw, hint, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{row.variable}: {_readable(error)}") from error


def _readable(error: msgspec.ValidationError) -> str:
    """`[upstream] idle_timeout_seconds: Expected …` out of msgspec's `Expected … - at `$.upstream.idle_timeout_seconds``."""
    message, _, path = str(error).partition(" - at `$")
    section, _, key = path.rstrip("`").lstrip(".").partition(".")
    if "unknown field" in message:
        key = message.split("`")[1]
        if not section:
            section, key = key, ""
        message = "unknown; `deepseek-meter serve --help` and the README list what there is"
    place = f"[{section}] {key}".strip() if section else ""
    return f"{place}: {message}" if place else message


def _description(hint: Any) -> str:
    """The help text in a (nested) `Annotated[...]`."""
    if get_origin(hint) is Annotated:
        for meta in get_args(hint)[1:]:
            if isinstance(meta, Meta) and meta.description:
                return meta.description
    return ""
