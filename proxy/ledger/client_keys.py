"""Client keys as values: what is kept of a key, and how what several places know of them comes together.

Rule 1: a key is made once and never changed; it may only be revoked. So knowledge only grows, and two states are brought
        together by union, in whatever order and however often: no replay can undo anything.
Rule 2: a revocation goes before the key it names, also where that key is not known (yet, or any more).
Rule 3: of the key itself only its keyed hash and its last four characters are kept.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal

import msgspec

from proxy.usage import Purpose

Pattern = str
"""A name, in which each `*` stands for anything."""


class ClientKey(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is kept of a key. An empty list allows everything, a limit of 0 is none, `expires_s` 0.0 is never.

    A field that this release does not know makes a key unreadable, and so refused: it may be a limit. `hashed_with` tells
    which hash secret `digest` was made with. Instants are seconds since the epoch.
    """

    id: str
    app: str
    digest: str
    hashed_with: str
    last_four: str
    created_s: float
    expires_s: float = 0.0
    models: tuple[Pattern, ...] = ()
    versions: tuple[Pattern, ...] = ()
    purposes: tuple[Purpose, ...] = ()
    requests_per_minute: int = 0
    concurrent: int = 0
    budgets: tuple[str, ...] = ()
    note: str = ""

    def __repr__(self) -> str:
        return f"<ClientKey {self.id} of {self.app}>"

    @property
    def is_limited(self) -> bool:
        """True for a key whose requests have to be counted over all workers."""
        return bool(self.requests_per_minute or self.concurrent)

    def expired(self, at_s: float) -> bool:
        """True from the second on at which it ends."""
        return 0.0 < self.expires_s <= at_s


class Known(msgspec.Struct, frozen=True):
    """Keys by their ids, and the instants at which keys were revoked (seconds since the epoch), by their ids."""

    keys: Mapping[str, ClientKey] = MappingProxyType({})
    revoked: Mapping[str, float] = MappingProxyType({})

    def __repr__(self) -> str:
        return f"<Known keys={len(self.keys)} revoked={len(self.revoked)}>"

    @property
    def is_empty(self) -> bool:
        """True where there is nothing to tell anybody."""
        return not self.keys and not self.revoked

    def active(self, at_s: float) -> list[ClientKey]:
        """The keys that open something at an instant."""
        return [key for key in self.keys.values() if key.id not in self.revoked and not key.expired(at_s)]


NOTHING: Final = Known()


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the journal of key changes: a key that was made, or the id of one that was revoked at `at_s`."""

    kind: Literal["add", "revoke"]
    at_s: float
    key: ClientKey | None = None
    id: str = ""


def added(key: ClientKey) -> Change:
    """The change that makes a key."""
    return Change("add", key.created_s, key=key)


def revoked(key_id: str, at_s: float) -> Change:
    """The change that revokes one."""
    return Change("revoke", at_s, id=key_id)


def known_from(changes: Iterable[Change]) -> Known:
    """What follows from changes, in whatever order."""
    found = list(changes)
    keys = {change.key.id: change.key for change in found if change.kind == "add" and change.key is not None}
    dates: dict[str, float] = {}
    for change in found:
        if change.kind == "revoke":
            dates[change.id] = min(change.at_s, dates.get(change.id, change.at_s))
    return Known(keys, dates)


def together(ours: Known, theirs: Known) -> Known:
    """What both know. Of two revocations the earlier counts; of two keys under one id (there are none) theirs."""
    dates = dict(ours.revoked)
    for key_id, at_s in theirs.revoked.items():
        dates[key_id] = min(at_s, dates.get(key_id, at_s))
    return Known({**ours.keys, **theirs.keys}, dates)


def lacking(theirs: Known, ours: Known) -> Known:
    """What we know and they do not."""
    return Known(
        {key_id: key for key_id, key in ours.keys.items() if key_id not in theirs.keys},
        {key_id: at_s for key_id, at_s in ours.revoked.items() if key_id not in theirs.revoked},
    )


def fits(name: str, patterns: Iterable[Pattern]) -> bool:
    """True if one of the patterns is this name."""
    return any(_is(name, pattern) for pattern in patterns)


def _is(name: str, pattern: Pattern) -> bool:
    first, *others = pattern.split("*")
    if not others:
        return name == pattern
    *middle, last = others
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    at, end = len(first), len(name) - len(last)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True
