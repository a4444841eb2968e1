"""The books against each other: journals on the disk, their running sums in the store, and the totals.

Reads and changes nothing, except `refill`, which sends again what a wiped store had and the journals still hold.

What can be wrong, by journal: `pending` (written and not applied), `forgotten` (applied once, and the store has gone back
behind it), `off` (its running sums differ from its lines: more is double, less is missing). And once: the totals differ
from the sum over all journals.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from proxy.ledger.answers import Books
from proxy.ledger.families import parse_field
from proxy.ledger.journal import JournalDamagedError, JournalReader, journals_in, segments
from proxy.ledger.places import IsNamed, Places, nobody
from proxy.ledger.shipper import JournalShipper
from proxy.ledger.store import Store
from proxy.ledger.tally import Retention
from proxy.ledger.watermark import Watermark
from proxy.usage import UsageRecord

REFILL: Final = ".refill"
MEASURES: Final = ("records", "tokens", "nano_usd", "nano_cny")
READ_AT_ONCE: Final = 1024

_decoder: Final = msgspec.json.Decoder(UsageRecord)


class JournalFinding(msgspec.Struct, frozen=True):
    """One journal: its last line, the number in the store, and what is wrong with it.

    `pending` are lines that are not in the counters, of those that were there at the first look.
    `off` are measures whose running sum differs, with the difference (store minus journal); `checked` is False where the
    beginning of the journal is not kept any more, so that its sums cannot be told.
    """

    journal: str
    last: int
    applied: int
    pending: int = 0
    forgotten: int = 0
    checked: bool = True
    off: dict[str, int] = {}
    damaged: str = ""

    @property
    def fine(self) -> bool:
        """True where nothing is to be said."""
        return not (self.pending or self.forgotten or self.off or self.damaged)


class Findings(msgspec.Struct, frozen=True):
    """All journals that are kept; by how much the totals differ from the sum over all journals, by measure."""

    journals: list[JournalFinding]
    totals_off: dict[str, int] = {}

    @property
    def fine(self) -> bool:
        """True where everything agrees and nothing is pending."""
        return not self.totals_off and all(journal.fine for journal in self.journals)


class Refilled(msgspec.Struct, frozen=True):
    """What was sent again of a journal: the numbers from `first` to `last`."""

    journal: str
    first: int
    last: int


async def verify(store: Store, journals: Path, first_look: Findings | None = None) -> Findings:
    """Compare everything, as of one instant of the store. Raises StoreUnavailableError, OSError.

    With a `first_look`, only what was written by then counts as pending: a busy installation always has something on
    its way.
    """
    paths = journals_in(journals)
    marks = {path.name: Watermark(path).read().number for path in paths}  # before the books, or they could be ahead
    known = list(await store.numbers())
    books = await store.books(known)
    while unknown := books.numbers.keys() - known:  # a journal that came between the two
        known += unknown
        books = await store.books(known)
    asked = {one.journal: one.last for one in first_look.journals} if first_look else None
    found = [_finding(path, books, marks[path.name], asked) for path in paths]
    return Findings(found, _totals_off(books))


async def not_counted(store: Store, journals: Path, written: Mapping[str, int] | None = None) -> dict[str, int]:
    """How many records of each journal are on the disk, or were applied once, and are not in the counters; without zeros.

    With what was `written` at a first look, by journal, only that is asked for. Raises StoreUnavailableError, OSError.
    """
    numbers = written_numbers(journals) if written is None else written
    applied = await store.numbers()
    return {name: last - applied.get(name, 0) for name, last in numbers.items() if last > applied.get(name, 0)}


def written_numbers(journals: Path) -> dict[str, int]:
    """The highest number of every journal that is kept: its last line, or what was applied of it. Raises OSError."""
    return {path.name: max(_last_number(path)[0], Watermark(path).read().number) for path in journals_in(journals)}


async def refill(store: Store, journals: Path, retention: Retention, is_named: IsNamed = nobody) -> list[Refilled]:
    """Send again what a wiped store had and the journals still hold, once, however often this is called."""
    places = Places(store, is_named)
    bases = (await store.books([])).bases
    done = []
    for path in journals_in(journals):
        reader = JournalReader(path)
        first, last = reader.first_number(), bases.get(path.name, 0)
        if first is None or first > last:
            continue
        name = path.name + REFILL
        await store.begin_behind(name, first - 1)
        shipper = JournalShipper(reader, store, retention, places=places, journal_id=name)
        try:
            await shipper.ship(last)
        finally:
            shipper.close()
        done.append(Refilled(path.name, first, last))
    return done


def _finding(path: Path, books: Books, highest: int, asked: Mapping[str, int] | None) -> JournalFinding:
    applied, base = books.numbers.get(path.name, 0), books.bases.get(path.name, 0)
    last, end_damaged = _last_number(path)
    first = next((number for number, _ in segments(path)), None)
    checked = first is None or first <= base + 1
    damaged: list[str] = [end_damaged] if end_damaged else []
    off = _off(path, base, applied, books.sums.get(path.name, {}), damaged) if checked else {}
    forgotten = max(highest - applied, 0)
    pending = max((last if asked is None else asked.get(path.name, 0)) - applied, 0)
    damage = "; ".join(dict.fromkeys(damaged))
    return JournalFinding(path.name, last, applied, pending, forgotten, checked, off, damage)


def _off(path: Path, base: int, applied: int, stored: Mapping[str, int], damaged: list[str]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for record in _records(path, base + 1, applied, damaged):
        _add(sums, record)
    return {name: stored.get(name, 0) - sums[name] for name in MEASURES if stored.get(name, 0) != sums[name]}


def _add(sums: dict[str, int], record: UsageRecord) -> None:
    sums["records"] += 1
    sums["tokens"] += record.usage.total if record.usage else 0
    for charge in record.charges:
        sums[f"nano_{charge.currency.lower()}"] += charge.total_nanos


def _records(path: Path, first: int, last: int, damaged: list[str]) -> Iterator[UsageRecord]:
    """The records between two numbers, as the shipper takes them: behind damage it goes on with the next segment.

    What is damaged is added to `damaged`.
    """
    reader = JournalReader(path)
    try:
        while first <= last:
            try:
                entries = reader.read(first, last, READ_AT_ONCE)
            except JournalDamagedError as error:
                damaged.append(str(error))
                following = next((number for number, _ in segments(path) if number > error.segment), None)
                if following is None:
                    return
                first = following
                continue
            if not entries:
                return
            for entry in entries:
                try:
                    yield _decoder.decode(entry.payload)
                except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                    continue  # set aside by the shipper, too
            first = entries[-1].number + 1
    finally:
        reader.close()


def _last_number(path: Path) -> tuple[int, str]:
    """The last line that can be read, and what is damaged."""
    reader = JournalReader(path)
    try:
        return reader.last_number(), ""
    except JournalDamagedError as error:
        return reader.last_read, str(error)
    finally:
        reader.close()


def _totals_off(books: Books) -> dict[str, int]:
    """Totals minus the sum over all journals, where they differ."""
    totals = _measured(books.totals)
    sums: dict[str, int] = defaultdict(int)
    for found in books.sums.values():
        for name, value in found.items():
            sums[name] += value
    return {name: totals[name] - sums[name] for name in MEASURES if totals[name] != sums[name]}


def _measured(totals: Mapping[bytes, bytes]) -> Mapping[str, int]:
    names = {"requests_total": "records", "tokens_total": "tokens"}
    names |= {"cost_usd_total": "nano_usd", "cost_cny_total": "nano_cny"}
    sums: dict[str, int] = defaultdict(int)
    for field, value in totals.items():
        family, _ = parse_field(field)
        if family in names:
            sums[names[family]] += int(value)
    return sums
