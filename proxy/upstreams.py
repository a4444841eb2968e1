"""What the settings of the upstreams mean to others: which version a name is, whose prices hold, and where the keys lie."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from proxy.errors import SettingsError
from proxy.gateway.hosts import Routing
from proxy.gateway.keys import key_line
from proxy.pricing.catalog import Catalog
from proxy.pricing.tariff import Seller
from proxy.pricing.versions import Routes
from proxy.settings import DEFAULT_UPSTREAM, NamedUpstreamSettings, Settings

DEFAULT_KEY_VARIABLE: Final = "DEEPSEEK_API_KEY"
DEEPSEEKS_HOST: Final = "https://api.deepseek.com"


def routes_of(settings: Settings) -> Routes:
    """The versions the operator says answer, by upstream and name."""
    routes = {one.name: _versions(one) for one in settings.upstreams}
    return {name: versions for name, versions in routes.items() if versions}


def routing_of(settings: Settings) -> Routing:
    """Which upstream answers for which name."""
    return Routing({one.name: one.models for one in settings.upstreams})


def sellers_of(settings: Settings) -> dict[str, Seller]:
    """Whose prices hold for each upstream."""
    every = settings.all_upstreams().items()
    return {name: Seller(name, follows_deepseek=one.price_list == "deepseek") for name, one in every}


def naming(settings: Settings, catalog: Callable[[], Catalog]) -> Callable[[str, str], bool]:
    """Tells whether a name of a label (`app`, `model`, `version`) is one of the operator's or of the catalog in force.

    In managed mode every app is that of a client key, which only the operator makes.
    """
    managed = settings.gateway.mode == "managed"
    routes = routes_of(settings)
    named = {
        "app": set(settings.apps),
        "model": {model for upstream in settings.upstreams for model in upstream.models},
        "version": {*settings.versions, *(version for names in routes.values() for version in names.values())},
    }

    def is_named(label: str, name: str) -> bool:
        if name in named[label] or (managed and label == "app"):
            return True
        current = catalog()
        return name in {"model": current.aliases, "version": current.versions}.get(label, {})

    return is_named


class Keys(NamedTuple):
    """The keys of upstreams, by upstream, and the one for the balance. Never shown."""

    upstreams: dict[str, str]
    balance: str = ""

    def __repr__(self) -> str:
        return f"<Keys of {len(self.upstreams)} upstreams>"


def keys_of(settings: Settings, environment: Mapping[str, str]) -> Keys:
    """The upstreams' keys in managed mode, and the one to ask for the balance with. Raises SettingsError for what cannot be used."""
    balance = _balance_key(settings, environment)
    if settings.gateway.mode == "passthrough":
        return Keys({}, balance)
    keys = upstream_keys(settings, environment)
    for name, key in keys.items():
        key_line(
            settings.all_upstreams()[name].key_header, key
        )  # one that cannot stand in a header is refused at the start
    return Keys(keys, balance)


def upstream_keys(settings: Settings, environment: Mapping[str, str]) -> dict[str, str]:
    """The key of each upstream that has one. Raises SettingsError for a file that cannot be read or is empty."""
    found = {name: _key_in(one.key_file) for name, one in settings.all_upstreams().items() if one.key_file}
    default = _default_key(settings, environment)
    return {DEFAULT_UPSTREAM: default, **found} if default else found


def missing_keys(settings: Settings, keys: Keys) -> list[str]:
    """In managed mode: DeepSeek's own host without a key. Others may want none."""
    url = settings.upstream.url
    if (
        settings.gateway.mode == "passthrough"
        or DEFAULT_UPSTREAM in keys.upstreams
        or not url.startswith(DEEPSEEKS_HOST)
    ):
        return []
    return [f"keys: managed mode, and no key for {url}: set {DEFAULT_KEY_VARIABLE} or [upstream] key_file"]


def _default_key(settings: Settings, environment: Mapping[str, str]) -> str:
    """DeepSeek's key out of the environment, for DeepSeek's own host alone: elsewhere it is nobody's business.

    It lies about in many environments; a simulator or another host has to be given a key on purpose, in a file.
    """
    is_deepseeks = settings.upstream.url.rstrip("/").partition("/v1")[0] == DEEPSEEKS_HOST
    return environment.get(DEFAULT_KEY_VARIABLE, "").strip() if is_deepseeks else ""


def _balance_key(settings: Settings, environment: Mapping[str, str]) -> str:
    if not settings.balance.poll_seconds:
        return ""
    path = settings.balance.key_file
    key = _key_in(path) if path else _default_key(settings, environment)
    if key:
        key_line("authorization", key)
    return key


def _versions(upstream: NamedUpstreamSettings) -> dict[str, str]:
    named = {model: upstream.versions.get(model, upstream.version) for model in upstream.models}
    return {model: version for model, version in named.items() if version}


def _key_in(path: str) -> str:
    key = _text_of(path, "key_file").strip()
    if not key:
        raise SettingsError(f"key_file {path}: is empty")
    return key


def _text_of(path: str, setting: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{setting} {path}: cannot be read: {error}") from error
