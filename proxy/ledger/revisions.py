"""The revisions of the records that are folded: asked of the registry in Redis, once per place, and remembered.

Rule 1: the registry decides. What is remembered saves the question; the apply script compares every number it is given with
        the registry and changes nothing where they differ, so that a cost is never split by a forgotten answer.
Rule 2: an answer is noted beside the journal it was used for. Where Redis has forgotten it, it is offered again, and the
        registry takes it unless somebody else has got the number meanwhile.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from proxy.ledger.families import series_field
from proxy.ledger.folders import open_own
from proxy.pricing.revisions import MOST, Place, place_of, settled, tag
from proxy.usage import UsageRecord

NOTES: Final = "revisions"
"""The file of a journal that keeps the answers used for it: one JSON array a line, never synced. A lost line costs the
offer; the registry then gives a number as if the fingerprint were new."""

KEPT: Final = 4096
"""Places remembered. Names come from clients: beyond it everything is forgotten, and asked again."""

log = structlog.get_logger(__name__)


class SettlesRevisions(Protocol):
    """What is needed of a store."""

    async def settle(self, place: Place, offer: "Offer", at_s: float) -> "Numbered":
        """The number of a place's fingerprint, and what was news to the registry."""


class Numbered(NamedTuple):
    """The number of a fingerprint, 0 where there is none, and the kinds of the changes that the registry noted at this question."""

    number: int
    changes: tuple[str, ...] = ()


class Settled(NamedTuple):
    """Records under their tags, as JSON where the text was known and still holds, and the numbers relied on by pair."""

    records: list[UsageRecord]
    texts: list[str]
    relied_on: dict[str, int]


class _Note(msgspec.Struct, frozen=True, array_like=True):
    version: str
    upstream: str
    fingerprint: str
    number: int


_Evidence = tuple[str, str, str, str, str]
_Pair = tuple[str, str, str]


def pair_field(version: str, upstream: str, fingerprint: str) -> str:
    """The registry's field of a fingerprint."""
    return msgspec.json.encode(("pair", version, upstream, fingerprint)).decode()


class Offer(NamedTuple):
    """What the asker remembers: the number the fingerprint had (0: none), the highest of its version, any on its host."""

    number: int = 0
    floor: int = 1
    had: bool = False


def settlement(place: Place, offer: Offer, at_s: float) -> bytes:
    """What the registry's script is asked, as JSON: its fields in `revisions`, and the change to note if it is one."""

    def field(*parts: str) -> str:
        return msgspec.json.encode(parts).decode()

    here = (place.version, place.upstream)
    name = (place.upstream, place.model)
    return msgspec.json.encode(
        {
            "pair": pair_field(*here, place.fingerprint),
            "base": field("base", *here),
            "taken": field("taken", place.version),
            "highest": field("highest", place.version),
            "latest": field("latest", *here),
            "meant": field("meant", *name, place.version),
            "last_meant": field("last_meant", *name),
            "told": bool(place.fingerprint),
            "offered": offer.number,
            "floor": offer.floor,
            "had": offer.had,
            "most": MOST,
            "counter": series_field("version_changes_total", place.model),
            "change": {
                "version": place.version,
                "upstream": place.upstream,
                "model": place.model,
                "fingerprint": place.fingerprint,
                "at_s": f"{at_s:.3f}",
            },
        }
    )


class Notes:
    """The answers that were used for one journal, in a file beside its segments."""

    def __init__(self, journal: Path) -> None:
        self._path = journal / NOTES
        self._noted: set[_Note] = set()

    def __repr__(self) -> str:
        return f"<Notes {self._path} {len(self._noted)}>"

    def read(self) -> list[tuple[_Pair, int]]:
        """What is noted, oldest first; a torn line is passed over."""
        try:
            lines = self._path.read_bytes().split(b"\n")
        except OSError:
            return []
        found = [note for note in map(_note_in, lines) if note is not None]
        self._noted.update(found)
        return [((note.version, note.upstream, note.fingerprint), note.number) for note in found]

    def keep(self, pair: _Pair, number: int) -> None:
        """Note an answer, once. A disk that refuses it costs the offer, nothing else."""
        note = _Note(*pair, number)
        if note in self._noted:
            return
        self._noted.add(note)
        try:
            with os.fdopen(open_own(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab") as file:
                file.write(msgspec.json.encode(note) + b"\n")
        except OSError as error:
            log.warning("revision_not_noted", error=str(error))


class Revisions:
    """What one process knows of the registry. Its journals, own and adopted, share it."""

    def __init__(self, store: SettlesRevisions) -> None:
        self._store = store
        self._pairs: dict[_Evidence, _Pair | None] = {}  # what has been asked for
        self._numbers: dict[_Pair, int] = {}  # the newest answer, one per pair whatever the name asked for
        self._offers: dict[_Pair, int] = {}

    def __repr__(self) -> str:
        return f"<Revisions asked={len(self._pairs)} offers={len(self._offers)}>"

    def offer(self, notes: Notes) -> None:
        """Remember what was answered in an earlier life, in case the registry has forgotten it."""
        self._offers.update(notes.read())

    def forget(self) -> None:
        """The registry answered otherwise, or may have forgotten: ask anew. What was answered stays on offer."""
        self._pairs.clear()
        self._numbers.clear()

    async def settle(self, records: Sequence[UsageRecord], texts: Sequence[str], notes: Notes | None) -> Settled:
        """The records under their tags. Raises StoreUnavailableError."""
        if len(self._pairs) >= KEPT:
            self.forget()
        for record in records:
            if _evidence(record) not in self._pairs:
                self._pairs[_evidence(record)] = await self._ask(record)
        found = Settled([], [], {})
        for record, text in zip(records, texts, strict=True):  # only now, when every number is the newest
            self._settle_one(record, text, found, notes)
        return found

    def _settle_one(self, record: UsageRecord, text: str, found: Settled, notes: Notes | None) -> None:
        pair = self._pairs[_evidence(record)]
        number = self._numbers[pair] if pair is not None else 0
        tagged = settled(record, number)
        found.records.append(tagged)
        found.texts.append(text if tagged is record else msgspec.json.encode(tagged).decode())
        if pair is not None and 0 < number <= MOST:
            found.relied_on[pair_field(*pair)] = number
            if notes is not None:
                notes.keep(pair, number)

    async def _ask(self, record: UsageRecord) -> _Pair | None:
        place = place_of(record)
        if place is None:
            return None
        pair = (place.version, place.upstream, place.fingerprint)
        number, changes = await self._store.settle(place, self._remembered(pair), record.end_s)
        self._numbers[pair] = number
        if 0 < number <= MOST:
            self._offers[pair] = number
        for kind in changes:
            log.info(
                "version_revision",
                kind=kind,
                **{**msgspec.structs.asdict(place), "version": tag(place.version, number)},
            )
        return pair

    def _remembered(self, pair: _Pair) -> Offer:
        """So that a registry that has forgotten everything does not take the newest fingerprint for the first."""
        version, upstream, _ = pair
        of_version = {known: number for known, number in self._offers.items() if known[0] == version}
        had = any(known[1] == upstream for known in of_version)
        return Offer(self._offers.get(pair, 0), max(of_version.values(), default=1), had)


def _evidence(record: UsageRecord) -> _Evidence:
    return (record.upstream, record.version, record.model, record.fingerprint, record.how)


def _note_in(line: bytes) -> _Note | None:
    try:
        return msgspec.json.decode(line, type=_Note)
    except msgspec.DecodeError:
        return None
