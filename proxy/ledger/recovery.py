"""What was open when a process died: from the marks of its sealed journal to the journal of their `interrupted` records.

Rule 1: the records are a pure function of the sealed journal (and of the catalog), so that doing it twice gives the same
        numbers; the newest instant in the journal stands for the unknown end, never the time of the recovery.
Rule 2: `<id>.recovered` appears whole or not at all, by a rename; whoever dies before that has done nothing.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from proxy.ledger.folders import open_own
from proxy.ledger.journal import MARK, JournalWriter, readable, segments, sync_directory
from proxy.usage import BegunMark, UsageRecord

SUFFIX: Final = ".recovered"
DONE: Final = "recovered"
"""The file in a sealed journal that says its open exchanges have been recovered."""

NEWEST_SEGMENTS: Final = 2
"""A segment begins with the marks of all that is open; the one before it is read too, in case that write was torn."""

Recover = Callable[[BegunMark, float], UsageRecord]
"""The record of an exchange that was interrupted, by its mark and the instant (seconds since the epoch) of its end."""


class _Ended(msgspec.Struct):
    """What is read of a record here."""

    exchange_id: str
    end_s: float


_mark_decoder: Final = msgspec.json.Decoder(BegunMark)
_ended_decoder: Final = msgspec.json.Decoder(_Ended)


def interrupted(journal: Path) -> tuple[list[BegunMark], float]:
    """The marks without a record in a sealed journal, in their order, and the newest instant in it."""
    begun: dict[str, BegunMark] = {}
    ended: set[str] = set()
    newest_s = 0.0
    for number, payload in _newest_lines(journal):
        try:
            if number == MARK:
                mark = _mark_decoder.decode(payload)
                begun[mark.exchange_id] = mark
                newest_s = max(newest_s, mark.start_s)
            else:
                record = _ended_decoder.decode(payload)
                ended.add(record.exchange_id)
                newest_s = max(newest_s, record.end_s)
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue  # not ours to judge here: the shipper sets such a line aside
    return [mark for exchange_id, mark in begun.items() if exchange_id not in ended], newest_s


def recover(journal: Path, make_record: Recover, segment_bytes: int) -> int:
    """Write `<id>.recovered` beside a sealed journal if anything was open in it; how many records it holds.

    To be called with the lock of the sealed journal held. Raises OSError, with nothing done.
    """
    if journal.name.endswith(SUFFIX) or (journal / DONE).exists():
        return 0
    marks, newest_s = interrupted(journal)
    target = journal.with_name(journal.name + SUFFIX)
    if marks and not target.exists():
        _write_whole(target, [make_record(mark, max(newest_s, mark.start_s)) for mark in marks], segment_bytes)
    os.close(open_own(journal / DONE, os.O_WRONLY | os.O_CREAT))
    return len(marks)


def _newest_lines(journal: Path) -> Iterator[tuple[int, bytes]]:
    for _, file in list(segments(journal))[-NEWEST_SEGMENTS:]:
        yield from readable(file)


def _write_whole(target: Path, records: list[UsageRecord], segment_bytes: int) -> None:
    """Under a name nobody looks for, then renamed: its lock is given up before, so whoever finds it may adopt it."""
    folder = target.with_name(f".{target.name}")
    shutil.rmtree(folder, ignore_errors=True)  # of one who died in the middle
    folder.mkdir(mode=0o700)
    writer = JournalWriter(folder, target.name, segment_bytes)
    for record in records:
        writer.append(msgspec.json.encode(record))
    writer.close()
    writer.path.rename(target)
    sync_directory(target.parent)
    folder.rmdir()
