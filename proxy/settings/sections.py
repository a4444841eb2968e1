"""Every setting, once: section, key, type, default, bounds and help. README's table is generated from here.

What one section can get wrong alone is refused by its types; what several can only get wrong together, by `loading`.
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from proxy.settings.addresses import refuse_credentials
from proxy.settings.named import AppSettings, BudgetSettings, VersionSettings
from proxy.settings.section import Count, Seconds, Section

DEFAULT_UPSTREAM: Final = "default"
"""The name of the upstream of `[upstream]` and `--upstream`."""


class GatewaySettings(Section, frozen=True):
    """The API port: what applications point `base_url` at."""

    listen: Annotated[str, Meta(description="address of the API port")] = "127.0.0.1:8400"
    tls_certificate_file: Annotated[
        str, Meta(description="certificate chain (PEM) of this port, read at the start; empty: plain HTTP")
    ] = ""
    tls_key_file: Annotated[str, Meta(description="private key (PEM, without a password) of that certificate")] = ""
    workers: Annotated[int, Meta(ge=1, le=128, description="gateway processes that share the API port")] = 1
    max_request_bytes: Annotated[Count, Meta(description="largest request body that is relayed; above it: 413")] = (
        64 * 1024 * 1024
    )
    max_head_bytes: Annotated[
        int,
        Meta(ge=1024, description="largest head of a request, its first line and all headers together; above it: 431"),
    ] = 64 * 1024
    max_headers: Annotated[Count, Meta(description="most headers of a request; above it: 431")] = 128
    head_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="longest time from the first byte of a request's head to its last; also how long a new connection may say nothing"
        ),
    ] = 30.0
    body_timeout_seconds: Annotated[
        Seconds, Meta(description="longest time from a request's head to the last byte of its body; above it: 408")
    ] = 300.0
    keepalive_seconds: Annotated[
        Seconds,
        Meta(
            description="how long a client's idle connection is kept; longer than the pool of anything before it, which else meets closed ones"
        ),
    ] = 3630.0
    shutdown_grace_seconds: Annotated[
        float, Meta(ge=0, description="how long open exchanges may finish after a stop was asked for")
    ] = 30.0
    mode: Annotated[
        Literal["passthrough", "managed"],
        Meta(
            description="`passthrough`: the client's own key goes to the upstream; `managed`: clients have keys of ours, upstreams get theirs"
        ),
    ] = "passthrough"
    open_paths: Annotated[
        tuple[Annotated[str, Meta(pattern="^/")], ...],
        Meta(
            description="managed mode: further paths open to every client key, e.g. `/files*`; beside chat, completions, messages, responses and models"
        ),
    ] = ()
    on_mismatch: Annotated[
        Literal["count", "refuse"],
        Meta(
            description="`X-Meter-Expect-Version` and the name asked for means another version: `count` relays and counts, `refuse` answers 409"
        ),
    ] = "count"
    key_hash_secret: Annotated[
        str,
        Meta(
            description="secret of the keyed hashes of API keys, which name apps and recognise client keys; replicas share it. Empty: made once in the data dir"
        ),
    ] = ""


class UpstreamSettings(Section, frozen=True):
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
    price_list: Annotated[
        Literal["deepseek", "own"],
        Meta(
            description="whose prices hold: DeepSeek's, or only those that the catalog gives for this upstream by its name"
        ),
    ] = "deepseek"
    accepts_client_keys: Annotated[
        bool, Meta(description="the one upstream that the clients' own keys may go to, in passthrough mode")
    ] = True
    key_file: Annotated[
        str,
        Meta(description="file with the key of this upstream, for managed mode; `DEEPSEEK_API_KEY` for `[upstream]`"),
    ] = ""
    key_header: Annotated[
        Literal["authorization", "x-api-key", "api-key"],
        Meta(
            description="header that carries that key: `authorization` (as a bearer), `x-api-key`, or Azure's `api-key`"
        ),
    ] = "authorization"

    def __post_init__(self) -> None:
        """Refuses (ValueError) credentials in the URL, which is shown at the start and in logs."""
        refuse_credentials(self.url)


class NamedUpstreamSettings(UpstreamSettings, frozen=True, kw_only=True):
    """Another host of DeepSeek's models, `[[upstreams]]`: as `[upstream]`, for the requests whose model it lists.

    `models` are the names that go there, as clients ask for them; one may end in `*`. `version` is what answers under all
    of them, `versions` what answers under single ones; without either it is told from the answer, as everywhere.
    """

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    url: Annotated[str, Meta(pattern="^https?://")]
    models: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=128)], ...], Meta(min_length=1)]
    version: Annotated[str, Meta(pattern=r"^[^+]{0,128}$")] = ""
    versions: dict[str, Annotated[str, Meta(pattern=r"^[^+]{1,128}$")]] = {}
    habits: Literal["deepseek", "other"] = "other"
    price_list: Literal["deepseek", "own"] = "own"
    accepts_client_keys: bool = False

    def __post_init__(self) -> None:
        """Refuses (ValueError) what the base does, a `*` inside a name, and versions of names that do not go here."""
        refuse_credentials(self.url)
        if any("*" in name[:-1] for name in self.models):
            raise ValueError("models: a * may stand only at the end of a name")
        if strangers := self.versions.keys() - set(self.models):
            raise ValueError(f"versions: {', '.join(sorted(strangers))} is not among models")


class ConsoleSettings(Section, frozen=True):
    """The console port: metrics and health."""

    listen: Annotated[str, Meta(description="address of the console port")] = "127.0.0.1:8401"
    tls_certificate_file: Annotated[
        str, Meta(description="certificate chain (PEM) of this port, read at the start; empty: plain HTTP")
    ] = ""
    tls_key_file: Annotated[str, Meta(description="private key (PEM, without a password) of that certificate")] = ""
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


class StoreSettings(Section, frozen=True):
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


class JournalSettings(Section, frozen=True):
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


class MeteringSettings(Section, frozen=True):
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


class PricingSettings(Section, frozen=True):
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
    billing_currency: Annotated[
        Literal["USD", "CNY"], Meta(description="the currency the account is billed in: its balance is compared")
    ] = "USD"


class BalanceSettings(Section, frozen=True):
    """The account's balance against the metered cost. The key is `DEEPSEEK_API_KEY`, or in a file; without one nothing is asked."""

    key_file: Annotated[
        str, Meta(description="file with the account's key, for `GET /user/balance` alone; empty: `DEEPSEEK_API_KEY`")
    ] = ""
    poll_seconds: Annotated[
        float, Meta(ge=0, description="how often the console asks the upstream for the balance; 0: never")
    ] = 600.0
    settle_seconds: Annotated[
        float, Meta(ge=0, description="how late a balance may settle; cost of that time explains a gap")
    ] = 1800.0


class KeysSettings(Section, frozen=True):
    """Client keys of the managed mode."""

    on_store_down: Annotated[
        Literal["cached", "refuse"],
        Meta(
            description="Redis is away: `cached` goes on with the keys as they were last seen and applies limits per worker; `refuse` answers 503"
        ),
    ] = "cached"
    maximum_cache_age_seconds: Annotated[
        float, Meta(ge=0, description="how old such keys may be with `cached`; beyond it: 503")
    ] = 86400.0


class LogSettings(Section, frozen=True):
    """What is written to standard error. Prompts, answers and keys never are."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severity that is written")
    ] = "info"
    format: Annotated[Literal["json", "text"], Meta(description="`json`: one object a line; `text`: readable")] = "text"
    exchanges: Annotated[
        bool,
        Meta(
            description="one line per exchange at `info`: id, app, version, tokens, cost, outcome, duration; no content. What a crash interrupted is counted and has no line"
        ),
    ] = True


class Settings(Section, frozen=True):
    """All sections. Frozen: a change of settings is a new object."""

    gateway: GatewaySettings = GatewaySettings()
    upstream: UpstreamSettings = UpstreamSettings()
    upstreams: tuple[NamedUpstreamSettings, ...] = ()
    console: ConsoleSettings = ConsoleSettings()
    store: StoreSettings = StoreSettings()
    journal: JournalSettings = JournalSettings()
    metering: MeteringSettings = MeteringSettings()
    pricing: PricingSettings = PricingSettings()
    balance: BalanceSettings = BalanceSettings()
    keys: KeysSettings = KeysSettings()
    log: LogSettings = LogSettings()
    budgets: tuple[BudgetSettings, ...] = ()
    versions: dict[str, VersionSettings] = {}
    apps: dict[str, AppSettings] = {}

    def apps_by_key(self) -> dict[str, str]:
        """The apps that `[apps]` gives to keys, by their `key-` names."""
        return {name: app for app, one in self.apps.items() for name in one.keys}

    def all_upstreams(self) -> dict[str, UpstreamSettings]:
        """Every upstream by its name, the one of `[upstream]` first."""
        return {DEFAULT_UPSTREAM: self.upstream, **{one.name: one for one in self.upstreams}}


_NAMED: Final = frozenset({"versions", "apps", "upstreams", "budgets"})
"""Sections of which there is one per name."""

SECTIONS = tuple(field for field in msgspec.structs.fields(Settings) if field.name not in _NAMED)
