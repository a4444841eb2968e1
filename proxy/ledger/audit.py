"""The audit trail as facts: who changed what, each entry bound to the one before it by a MAC. Pure.

Rule 1: an entry holds facts about a change: never a prompt, an answer or a key. Texts are cut, and what looks like an API
        key is masked, whoever notes it.
Rule 2: the MAC of an entry covers everything in it, the MAC before it included. Without the installation's secret none
        can be changed, added, left out or moved unnoticed; only the end can be cut off, and that is what logged heads tell.
Rule 3: one entry has one form in bytes. A line that says the same in other bytes is not what was written.
The file is `audit_file`, the stream in Redis `audit_stream`; comparing them and the heads is `audit_proof`.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Final, NamedTuple

import msgspec

LONGEST_TEXT: Final = 300
LARGEST_DETAIL_BYTES: Final = 4096
_KEY_LABEL: Final = b"deepseek-meter audit chain 1"
_KEY_ID_BYTES: Final = 4
_LOOKS_LIKE_A_KEY: Final = re.compile(
    r"\bsk-[\w-]+"
    r"|(?<![0-9A-Za-z])dsm_[0-9A-Za-z]{8}[_-][\w-]+"  # ours; `dsm_` and the eight characters alone are its id, which is no secret
    r"|(?<=[Bb]earer )\S+"
)


class Action(StrEnum):
    """What is noted. A closed list: docs/audit.md says what each one's subject and detail are."""

    CHAIN_BEGAN = "chain_began"
    STARTED = "started"
    STOPPED = "stopped"
    SETTINGS_CHANGED = "settings_changed"
    BUDGET_CHANGED = "budget_changed"
    CATALOG_CHANGED = "catalog_changed"
    PRICE_CHANGED = "price_changed"
    VERSION_CHANGED = "version_changed"
    KEY_ADDED = "key_added"
    KEY_REVOKED = "key_revoked"
    REPRICED = "repriced"
    REFILLED = "refilled"


class AuditEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One change. `at_ms` is Unix time in milliseconds, `key` names the secret of the MAC, `previous` is the MAC before."""

    chain: str
    number: int
    at_ms: int
    who: str
    action: Action
    subject: str
    detail: dict[str, Any]
    key: str
    previous: str
    mac: str = ""


class Note(NamedTuple):
    """A change that is to be noted."""

    action: Action
    subject: str
    detail: Mapping[str, Any]


class Head(NamedTuple):
    """Where a chain stood: its last number, and that entry's MAC."""

    chain: str
    number: int
    mac: str


def audit_key(secret: bytes) -> bytes:
    """The key of the MACs, out of the installation's hash secret, which it does not give away."""
    return hmac.digest(secret, _KEY_LABEL, hashlib.sha256)


def key_id(key: bytes) -> str:
    """Eight hex digits that name a key, so that a chain made with another secret is told from a changed one."""
    return hmac.digest(key, b"key id", hashlib.sha256)[:_KEY_ID_BYTES].hex()


def note_of(action: Action, subject: str, detail: Mapping[str, Any]) -> Note:
    """A note as it will be read back. Raises ValueError for a detail above 4 KiB: an entry is a fact, not a dump."""
    clean = {_text(name): _clean(value) for name, value in detail.items()}
    encoded = msgspec.json.encode(clean)
    if len(encoded) > LARGEST_DETAIL_BYTES:
        raise ValueError(f"audit: the detail of {action} {subject} has {len(encoded)} bytes; 4096 are the most")
    return Note(action, _text(subject), msgspec.json.decode(encoded))


def entry_behind(previous: Head, note: Note, *, who: str, at_ms: int, key: bytes) -> AuditEntry:
    """The entry that follows on a head; on a new chain, that head has the number 0 and no MAC."""
    entry = AuditEntry(
        chain=previous.chain,
        number=previous.number + 1,
        at_ms=at_ms,
        who=_text(who),
        action=note.action,
        subject=note.subject,
        detail=dict(note.detail),
        key=key_id(key),
        previous=previous.mac,
    )
    return msgspec.structs.replace(entry, mac=mac_of(entry, key))


def mac_of(entry: AuditEntry, key: bytes) -> str:
    """The MAC an entry has to have, 64 hex digits."""
    unsigned = msgspec.structs.replace(entry, mac="")
    return hmac.digest(key, encoded(unsigned), hashlib.sha256).hex()


def holds(entry: AuditEntry, key: bytes) -> bool:
    """True where the MAC of an entry is its own."""
    return hmac.compare_digest(entry.mac.encode(), mac_of(entry, key).encode())


def head_of(entry: AuditEntry) -> Head:
    """The head of a chain that ends with this entry."""
    return Head(entry.chain, entry.number, entry.mac)


def encoded(entry: AuditEntry) -> bytes:
    """The one form of an entry in bytes: JSON in one line, every object sorted by name."""
    return msgspec.json.encode(entry, order="sorted")


def decoded(line: bytes) -> AuditEntry | None:
    """The entry in a line; None where there is none, or one in other bytes than it is written in."""
    try:
        entry = msgspec.json.decode(line, type=AuditEntry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return entry if encoded(entry) == line else None


def _clean(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {_text(name): _clean(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(one) for one in value]
    return _text(value)


def _text(value: object) -> str:
    """A text without what looks like an API key, not longer than 300 characters, and writable as UTF-8."""
    text = _LOOKS_LIKE_A_KEY.sub("***", str(value)).encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"
