"""What `check` says of client keys in managed mode: none at all, ones that open nothing, ones that end soon, ones that a budget does not hold."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from proxy.child import journals_dir
from proxy.errors import MeterError
from proxy.gateway.keys import secret_name
from proxy.hash_secret import hash_secret
from proxy.keys_command import known_keys, unknown_budgets
from proxy.ledger.client_keys import NOTHING, ClientKey, Known, fits
from proxy.pricing.budgets import Budget, Whose, budgets_of, leaves_out_a_purpose
from proxy.pricing.catalog import Catalog
from proxy.settings import Settings
from proxy.upstreams import routes_of
from proxy.usage import Purpose

SOON_S: Final = 14 * 86400.0


def key_lines(settings: Settings, catalog: Catalog, now_s: float) -> list[str]:
    """The lines of this installation; empty in passthrough mode. A store that does not answer is a line, too."""
    if settings.gateway.mode == "passthrough":
        return []
    if not settings.store.redis_url and not journals_dir(settings).is_dir():
        nobody = keys_to_look_at(NOTHING, "", (), now_s)  # nothing was ever started here
        return [*nobody, *_ways_out(settings, [])]
    try:
        known, untold = known_keys(settings)
        secret = secret_name(hash_secret(settings)) if _has_secret(settings) else ""
    except (MeterError, OSError) as error:
        return [f"keys: they could not be asked for: {error}", *_ways_out(settings, [])]
    named = {version for versions in routes_of(settings).values() for version in versions.values()}
    lines = keys_to_look_at(known, secret, {*catalog.versions, *named}, now_s)
    lines += [
        f"keys: {key.id} of {key.app} names the budget {name}, and there is none of that name with for_keys = true"
        for key in known.active(now_s)
        for name in unknown_budgets(settings, key.budgets)
    ]
    lines += _ways_out(settings, known.active(now_s))
    return [f"keys: {untold}; what follows is what the data dir knows", *lines] if untold else lines


def keys_to_look_at(known: Known, secret: str, versions: Iterable[str], now_s: float) -> list[str]:
    """A line for each thing. `secret` is the name of the hash secret in force, `versions` are those there are."""
    active = known.active(now_s)
    if not active:
        return [
            "keys: managed mode, and no client key that opens anything: `deepseek-meter keys add --app NAME` makes one"
        ]
    return [line for key in active for line in _of(key, secret, set(versions), now_s)]


def _ways_out(settings: Settings, active: Sequence[ClientKey]) -> Iterator[str]:
    """Refusing budgets of a purpose, and the keys that may state another; without keys to look at, the rule alone."""
    for budget in budgets_of(settings):
        if not budget.refuses or not leaves_out_a_purpose(budget.purpose):
            continue
        found = ", ".join(f"{key.id} of {key.app}" for key in active if _may_leave(budget, key))
        if found or not active:
            yield (
                f"settings: [[budgets]] {budget.name}: purpose = {budget.purpose!r}: a budget that refuses holds only for keys "
                f"made with --purposes that all fit it{'; not for ' if found else ''}{found}; docs/budgets.md"
            )


def _may_leave(budget: Budget, key: ClientKey) -> bool:
    """True for a key that counts in a budget with one of its purposes and not with another, whatever it asks for."""
    anything = msgspec.structs.replace(budget, version="*", model="*")
    counts = {
        anything.is_for(Whose(key.app, key.app, "", "", purpose, key.budgets)) for purpose in key.purposes or Purpose
    }
    return len(counts) > 1


def _of(key: ClientKey, secret: str, versions: set[str], now_s: float) -> Iterable[str]:
    if key.hashed_with != secret:
        yield (
            f"keys: {key.id} of {key.app} was made with another [gateway] key_hash_secret and is not recognised here; "
            "replicas share that setting"
        )
    if key.expires_s and key.expires_s - now_s < SOON_S:
        yield f"keys: {key.id} of {key.app} expires in {(key.expires_s - now_s) / 86400:.1f} days"
    for pattern in key.versions:
        if not any(fits(version, [pattern]) for version in versions):
            yield f"keys: {key.id} of {key.app} is for versions {pattern}, and there is none of that name"


def _has_secret(settings: Settings) -> bool:
    """False before anything was hashed: `check` makes no secret."""
    return bool(settings.gateway.key_hash_secret) or (Path(settings.store.data_dir) / "key_hash_secret").exists()
