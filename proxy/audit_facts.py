"""What settings and catalog say, as facts that can be compared with those of an earlier run, and the notes a difference makes. Pure.

Facts are values by name, of each subject. A secret stands in them masked, beside a keyed hash, so that its change is seen and its
value is not.
"""

import ast
import hashlib
import hmac
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import msgspec

from proxy.ledger.answers import Change
from proxy.ledger.audit import Action, Note, note_of
from proxy.pricing.catalog import Catalog
from proxy.pricing.rows import AliasRow, Row, RuleRow, UnpricedRow
from proxy.settings import Settings

Facts = dict[str, dict[str, Any]]
"""Values by name, by subject."""

HASH_BYTES: Final = 8
_OF_THE_REVIEW: Final = frozenset({"source", "confidence", "checked", "review_by", "note"})
"""What a row says of its own origin: a change of these changes no price."""

_BUDGETS: Final = "budgets"
_MASKED: Final = "*** (changed)"


class Difference(NamedTuple):
    """A subject whose facts differ; without old ones it is new, without new ones it is gone."""

    subject: str
    old: dict[str, Any] | None
    new: dict[str, Any] | None


def differences(old: Facts, new: Facts) -> Iterator[Difference]:
    """Subjects whose facts differ, in order of their names."""
    for subject in sorted(old.keys() | new.keys()):
        if old.get(subject) != new.get(subject):
            yield Difference(subject, old.get(subject), new.get(subject))


def settings_facts(settings: Settings, key: bytes) -> Facts:
    """Text and keyed hash of each setting, by section; of a section with names, by its name."""
    return {subject: _section(section, key) for subject, section in _sections(settings)}


def settings_notes(difference: Difference) -> list[Note]:
    """What changed in a section, old and new; a secret's value is not told."""
    old, new = difference.old or {}, difference.new or {}
    changed = {name: _texts(old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}
    action = Action.BUDGET_CHANGED if difference.subject.strip("[").startswith(_BUDGETS) else Action.SETTINGS_CHANGED
    return _notes(action, difference, changed)


def catalog_facts(catalog: Catalog) -> Facts:
    """Everything each row says, and the holidays of each year."""
    facts: Facts = {}
    for placed in catalog.rows:
        subject = _row_name(placed.row)
        while subject in facts:
            subject += "'"  # two rows of the same names at the same instant, told apart by their order
        facts[subject] = {**_said(placed.row), "own": placed.own}
    for year, days in sorted(catalog.holidays.items()):
        facts[f"holidays {year}"] = {"days": " ".join(sorted(day.isoformat() for day in days))}
    return facts


def catalog_notes(difference: Difference) -> list[Note]:
    """A price that is another one, old and new; or another change of a row."""
    old, new = difference.old or {}, difference.new or {}
    changed = {name: [old.get(name), new.get(name)] for name in sorted({*old, *new}) if old.get(name) != new.get(name)}
    priced = difference.subject.startswith(("price ", "unpriced ")) and changed.keys() - _OF_THE_REVIEW
    return _notes(Action.PRICE_CHANGED if priced else Action.CATALOG_CHANGED, difference, changed)


def version_note(change: Change) -> Note:
    """A change of what answers under a name, as the store has noted it."""
    return note_of(
        Action.VERSION_CHANGED,
        change.after,
        {
            "kind": change.kind,
            "upstream": change.upstream,
            "model": change.model,
            "before": change.before,
            "fingerprint": change.fingerprint,
            "first_seen_s": change.at_s,
        },
    )


def version_identity(note: Note) -> tuple[Any, ...]:
    """What makes two notes the same change, though a Redis that went back may have noted it again, and at another instant."""
    said = note.detail
    by_name = said.get("model") if said.get("kind") == "version" else said.get("fingerprint")
    return (note.subject, said.get("kind"), said.get("upstream"), by_name)


def digest_of(facts: Facts) -> str:
    """Sixteen hex digits that stand for facts."""
    return hashlib.blake2b(msgspec.json.encode(facts, order="sorted"), digest_size=HASH_BYTES).hexdigest()


def _notes(action: Action, difference: Difference, changed: Mapping[str, list[Any]]) -> list[Note]:
    """One note, or one for each name where they would be too much for one."""
    what = "added" if difference.old is None else "removed" if difference.new is None else "changed"
    try:
        return [note_of(action, difference.subject, {"what": what, "changed": changed})]
    except ValueError:
        parts = [{name: [_short(one) for one in pair]} for name, pair in changed.items()]
        return [note_of(action, difference.subject, {"what": what, "changed": part}) for part in parts]


def _short(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | None) else str(value)


def _sections(settings: Settings) -> Iterator[tuple[str, Any]]:
    for name in settings.__struct_fields__:
        section = getattr(settings, name)
        if isinstance(section, dict):
            yield from ((f"[{name}.{one}]", named) for one, named in section.items())
        elif isinstance(section, tuple):
            yield from ((f"[[{name}]] {named.name}", named) for named in section)
        else:
            yield f"[{name}]", section


def _section(section: Any, key: bytes) -> dict[str, Any]:
    return {name: [text, _hashed(getattr(section, name), key)] for name, text in section.shown().items()}


def _hashed(value: Any, key: bytes) -> str:
    return hmac.digest(key, msgspec.json.encode(value, order="sorted"), hashlib.sha256)[:HASH_BYTES].hex()


def _texts(old: list[str] | None, new: list[str] | None) -> list[str | None]:
    """What is shown of a setting before and after. Where that is the same, a secret changed."""
    before, after = (_plain(one[0]) if one else None for one in (old, new))
    return [before, _MASKED if before == after else after]


def _plain(text: str) -> str:
    """A text without its quotes. They stay in what is remembered: else each text would seem changed after an update."""
    if not text.startswith(("'", '"')):
        return text
    try:
        return str(ast.literal_eval(text))
    except (ValueError, SyntaxError):
        return text


def _row_name(row: Row) -> str:
    """The row's kind and title; and since when it holds, where it has no id and rows of one title follow on one another."""
    kind = type(row).__name__.removesuffix("Row").lower()
    if not isinstance(row, AliasRow | RuleRow | UnpricedRow):
        return f"{kind} {row.title}"
    return f"{kind} {row.title} from {datetime.fromtimestamp(row.from_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _said(row: Row) -> dict[str, Any]:
    """What a row says, defaults left out."""
    said: dict[str, Any] = msgspec.to_builtins(row)
    return {name: value for name, value in said.items() if value not in (None, "", [], ())}
