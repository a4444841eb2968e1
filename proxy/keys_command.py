"""`keys`: makes, lists and revokes client keys, in an installation that runs or does not.

A change goes to the data dir first, then to the store: what was said to be done is on the disk, and reaches a store that is
away once it is back. A key itself is returned once, by `add`, and kept nowhere.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from proxy.child import journals_dir
from proxy.client_keys import ring_of
from proxy.errors import MeterError, SettingsError, StoreUnavailableError
from proxy.gateway.client_keys import id_of, new_key
from proxy.gateway.headers import label_of
from proxy.gateway.keys import key_digest, secret_name
from proxy.gateway_process import open_store
from proxy.hash_secret import hash_secret
from proxy.installation import audit_of, store_url
from proxy.ledger.audit import Action
from proxy.ledger.client_keys import ClientKey, Known
from proxy.ledger.key_files import FOLDER, KeyFiles
from proxy.ledger.key_ring import KeyRing
from proxy.settings import Settings
from proxy.usage import Purpose

MOST_PER_MINUTE: Final = 100_000
"""Every request of the last minute is kept in Redis by its instant."""

_LONGEST_WAIT_S: Final = 5.0
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SPAN: Final = re.compile(r"(\d{1,6})([smhdw])")


class Wanted(NamedTuple):
    """What a new key shall open, as it was typed."""

    app: str
    models: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    purposes: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    expires: str = ""
    requests_per_minute: int = 0
    concurrent: int = 0
    note: str = ""


class Added(NamedTuple):
    """A new key, what is kept of it, and what kept the store from hearing of it, if anything did."""

    text: str
    key: ClientKey
    untold: str = ""

    def __repr__(self) -> str:
        return f"<Added {self.key!r}>"


def add(settings: Settings, wanted: Wanted, now_s: float, draw: Callable[[int], int]) -> Added:
    """Make a key. Raises MeterError: nothing was made then."""
    _check(settings, wanted)
    key_id, text = new_key(draw)
    key = _key(wanted, key_id, text, hash_secret(settings), now_s)
    untold = _change(settings, lambda _known: Known({key.id: key}), may_wait=False)
    audit_of(settings, "keys add").note(Action.KEY_ADDED, key.id, **_opens(key))
    return Added(text, key, untold)


def revoke(settings: Settings, which: str, now_s: float) -> tuple[str, str]:
    """Revoke a key by its id; the id, and what kept the store from hearing of it. Raises MeterError where there is none.

    Where the store does not answer, an id that is not known here is revoked all the same: the key may be known elsewhere.
    """
    key_id = id_of(which)
    if key_id is None:
        raise SettingsError("expected the id of a key, as `keys list` shows it")
    _expect_installation(settings)

    def change(known: Known | None) -> Known:
        if known is not None and key_id not in known.keys and key_id not in known.revoked:
            raise MeterError(f"there is no key {key_id}; `deepseek-meter keys list` shows those there are")
        return Known({}, {key_id: now_s})

    untold = _change(settings, change, may_wait=True)
    audit_of(settings, "keys revoke").note(Action.KEY_REVOKED, key_id)
    return key_id, untold


def known_keys(settings: Settings) -> tuple[Known, str]:
    """All keys, and what kept us from asking the store; what the data dir knows is there in any case. Writes nothing there.

    Raises MeterError where there is no installation.
    """
    _expect_installation(settings)
    with store_url(settings) as url:
        return asyncio.run(_read(settings, url))


def is_installation(settings: Settings) -> bool:
    """True where the data dir is one that was served from, or in which keys were made before the first start."""
    return journals_dir(settings).is_dir() or (Path(settings.store.data_dir) / FOLDER).is_dir()


def rows(known: Known, now_s: float) -> list[dict[str, Any]]:
    """A row for every key, oldest first, then one for each revocation whose key is not known any more."""
    made = [_row(key, known, now_s) for key in sorted(known.keys.values(), key=lambda key: (key.created_s, key.id))]
    strangers = sorted(known.revoked.keys() - known.keys.keys())
    return made + [{"id": key_id, "state": "revoked", "revoked": _date(known.revoked[key_id])} for key_id in strangers]


def unknown_budgets(settings: Settings, names: Iterable[str]) -> list[str]:
    """The budgets among those a key names that these settings have not, or not for keys."""
    there_are = _for_keys(settings)
    return [name for name in names if name not in there_are]


def _for_keys(settings: Settings) -> list[str]:
    return [budget.name for budget in settings.budgets if budget.for_keys]


def span_s(text: str) -> float:
    """Seconds of a span such as 90d, 12h or 4w. Raises SettingsError."""
    found = _SPAN.fullmatch(text.strip().lower())
    if found is None or not int(found[1]):
        raise SettingsError(f"--expires: expected a span such as 90d, 12h or 4w, got {text!r}")
    return float(int(found[1]) * _UNITS_S[found[2]])


def _expect_installation(settings: Settings) -> None:
    """Raises MeterError where a look would make an installation: a mistaken path, and no store but the one within it."""
    if not settings.store.redis_url and not is_installation(settings):
        place = Path(settings.store.data_dir).resolve()
        raise MeterError(f"[store] data_dir {place}: there is no installation; is it the right one?")


def _check(settings: Settings, wanted: Wanted) -> None:
    """Raises SettingsError for names that are none, and for what would be a key without the limit that was asked for."""
    names = (wanted.app, *wanted.models, *wanted.versions, *wanted.budgets)
    for name in names:
        if not name or label_of(name) != name:
            raise SettingsError("expected names of at most 128 printable characters, without spaces around them")
    if strange := set(wanted.purposes) - set(Purpose):
        raise SettingsError(f"--purposes: expected {', '.join(Purpose)}; got {', '.join(sorted(strange))}")
    if unknown := unknown_budgets(settings, wanted.budgets):
        there_are = ", ".join(_for_keys(settings)) or "there is none at all"
        raise SettingsError(
            f"--budgets: these settings have no [[budgets]] {', '.join(unknown)} with for_keys = true; expected: {there_are}"
        )
    if wanted.expires:
        span_s(wanted.expires)


def _key(wanted: Wanted, key_id: str, text: str, secret: bytes, now_s: float) -> ClientKey:
    """What is kept of a key, by what was checked before."""
    return ClientKey(
        id=key_id,
        app=wanted.app,
        digest=key_digest(text, secret),
        hashed_with=secret_name(secret),
        last_four=text[-4:],
        created_s=round(now_s, 3),
        expires_s=round(now_s + span_s(wanted.expires), 3) if wanted.expires else 0.0,
        models=wanted.models,
        versions=wanted.versions,
        purposes=tuple(map(Purpose, wanted.purposes)),
        requests_per_minute=wanted.requests_per_minute,
        concurrent=wanted.concurrent,
        budgets=wanted.budgets,
        note=label_of(wanted.note),
    )


def _change(settings: Settings, change: Callable[[Known | None], Known], *, may_wait: bool) -> str:
    with store_url(settings) as url:
        return asyncio.run(_apply(settings, url, change, may_wait=may_wait))


async def _apply(settings: Settings, url: str, change: Callable[[Known | None], Known], *, may_wait: bool) -> str:
    """Make a change here and in the store; what kept the store from hearing of it. `change` is given what is known."""
    store = open_store(settings, url, _LONGEST_WAIT_S)
    try:
        ring = ring_of(settings, store)
        ring.load()
        untold = await _refresh(ring)
        if untold and not may_wait:
            raise MeterError(f"{untold}; nothing was changed")
        _note(settings, change(None if untold else ring.known))
        return untold or await _refresh(ring)
    finally:
        await store.close()


async def _read(settings: Settings, url: str) -> tuple[Known, str]:
    store = open_store(settings, url, _LONGEST_WAIT_S)
    try:
        ring = ring_of(settings, store, keeps_snapshot=False, keeps_changes=False)
        ring.load()
        untold = await _refresh(ring)
        return ring.known, untold
    finally:
        await store.close()


async def _refresh(ring: KeyRing) -> str:
    try:
        await ring.refresh()
    except StoreUnavailableError as error:
        return str(error)
    return ""


def _note(settings: Settings, known: Known) -> None:
    data_dir = Path(settings.store.data_dir)
    try:
        KeyFiles(data_dir).note(known)
    except OSError as error:
        raise MeterError(f"[store] data_dir {data_dir}: {error.strerror or error}; nothing was changed") from error


def _opens(key: ClientKey) -> dict[str, Any]:
    """What a key opens, for the audit trail: nothing that tells the key."""
    kept = msgspec.to_builtins(key)
    named = ("app", "models", "versions", "purposes", "budgets", "requests_per_minute", "concurrent", "note")
    opens = {name: kept[name] for name in named if kept.get(name)}
    return {**opens, "expires": _date(key.expires_s)} if key.expires_s else opens


def _row(key: ClientKey, known: Known, now_s: float) -> dict[str, Any]:
    kept = msgspec.structs.asdict(key)
    for name in ("digest", "hashed_with", "created_s", "expires_s"):
        del kept[name]
    dates = {
        "created": _date(key.created_s),
        "expires": _date(key.expires_s) if key.expires_s else None,
        "revoked": _date(known.revoked[key.id]) if key.id in known.revoked else None,
    }
    state = "revoked" if dates["revoked"] else "expired" if key.expired(now_s) else "active"
    return {"id": key.id, "app": key.app, "state": state, **dates, **kept}


def _date(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
