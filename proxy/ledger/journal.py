r"""The journal: records on the local disk, between the end of an exchange and Redis.

One directory per process life, one writer, numbered lines with checksums in segment files:

    <journals>/<id>/lock                      flock held by the owner as long as it lives
    <journals>/<id>/00000000000000000001.log  <number> <crc32 of number and payload> <payload>\n
                                              0 <crc32 of payload> <payload>\n   a begun mark

Rule 1: a start opens a new journal and never appends to an old one.
Rule 2: a line is one `write`; a write that fails leaves no trace in the file.
Rule 3: a torn last line is dropped. Any other damage stops the reading there, by name, and the file is kept.
Rule 4: a begun mark has no number and is never shipped. A new segment begins with the marks of all that is still open, so
        that what was open at a crash can be told from the newest segments, however long the journal is.
This file knows lines and numbers, not what stands in them.
"""

import errno
import fcntl
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from proxy.errors import MeterError
from proxy.ledger.folders import open_own

READ_BYTES: Final = 256 * 1024


MARK: Final = 0
"""The number of a begun mark."""


class JournalDamagedError(MeterError):
    """A line in the middle of a journal does not hold what was written. `segment` is the first number of its file."""

    def __init__(self, message: str, segment: int) -> None:
        super().__init__(message)
        self.segment = segment


class Entry(NamedTuple):
    """One line: its number and what was written under it."""

    number: int
    payload: bytes


class JournalWriter:
    """The one writer of a new journal. Not for several threads, but `sync` may run beside `append` in another."""

    def __init__(self, journals: Path, journal_id: str, segment_bytes: int) -> None:
        """Create the journal and take its lock. Raises OSError if the directory cannot be written."""
        self.journal_id = journal_id
        self.path = journals / journal_id
        self._lock = _create_locked(self.path)
        self._segment_bytes = segment_bytes
        self._fd = -1
        self._segment_first = 0
        self._size = 0
        self._torn = False
        self._new_file = False  # whose name is not on the disk for good yet
        self._unsynced: list[int] = []  # finished segments that wait for their fsync
        self._open: dict[str, bytes] = {}  # the marks of exchanges that have begun and not ended, by their ids
        self._written = self._synced = 0  # lines of both kinds
        self.number = 0
        self.synced_number = 0

    def __repr__(self) -> str:
        return f"<JournalWriter {self.journal_id} written={self.number} synced={self.synced_number}>"

    @property
    def synced(self) -> bool:
        """True if everything that was written has been forced to the disk."""
        return self._synced == self._written

    def begin(self, exchange_id: str, payload: bytes) -> None:
        """Write a begun mark. Raises OSError with the file as it was before."""
        if self._size >= self._segment_bytes or self._fd < 0:
            self._open_segment_for(self.number + 1)
        mark = b"0 %08x %b\n" % (zlib.crc32(payload), payload)
        self._write(mark)
        self._open[exchange_id] = mark

    def append(self, payload: bytes, exchange_id: str = "") -> int:
        """Write one line, which ends what was begun under this id, and return its number. Raises OSError as `begin`."""
        number = self.number + 1
        if self._size >= self._segment_bytes or self._fd < 0:
            self._open_segment_for(number)
        self._write(b"%d %08x %b\n" % (number, zlib.crc32(payload, number & 0xFFFFFFFF), payload))
        self._open.pop(exchange_id, None)
        self.number = number
        return number

    def sync(self) -> None:
        """Force everything written so far to the disk. Raises OSError."""
        written, number, current, finished = self._written, self.number, self._fd, tuple(self._unsynced)
        if written == self._synced:
            return
        self._sync_names()
        for fd in finished:  # only those of now: `append` may finish the current one meanwhile
            os.fsync(fd)
            os.close(fd)
            self._unsynced.remove(fd)
        os.fsync(current)
        self._synced, self.synced_number = written, number

    def _sync_names(self) -> None:
        """Force the names of new files to the disk. The flag goes first: a file that comes meanwhile sets it again."""
        if self._new_file:
            self._new_file = False
            try:
                sync_directory(self.path)
            except OSError:
                self._new_file = True
                raise

    def roll(self) -> None:
        """Let the next line begin a new segment."""
        self._size = max(self._size, self._segment_bytes)

    def close(self) -> None:
        """Sync and give up the lock; the journal can then be adopted."""
        if self._fd >= 0:
            self.sync()
            os.close(self._fd)
            self._fd = -1
        os.close(self._lock)

    def _write(self, lines: bytes) -> None:
        if self._torn:
            self._take_back()
        try:
            if os.write(self._fd, lines) != len(lines):
                raise _short_write(self.path)
        except OSError:
            self._take_back()
            raise
        self._size += len(lines)
        self._written += 1

    def _take_back(self) -> None:
        """Leave no half line behind. Where even that fails, nothing more is written before it has been done."""
        self._torn = True
        os.ftruncate(self._fd, self._size)
        self._torn = False

    def _open_segment_for(self, number: int) -> None:
        if self._fd >= 0 and (self._size < self._segment_bytes or number == self._segment_first):
            return  # a segment full of marks alone goes on: two cannot begin with the same number
        path = _segment(self.path, number)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        marks = b"".join(self._open.values())
        try:
            if os.write(fd, marks) != len(marks):
                raise _short_write(path)
        except OSError:
            os.close(fd)
            path.unlink()
            raise
        if self._fd >= 0:
            self._unsynced.append(self._fd)
        self._fd, self._segment_first, self._size = fd, number, len(marks)
        self._new_file = True


class JournalReader:
    """Reads the lines of a journal in order, again and again from wherever it is asked to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.journal_id = path.name
        self.last_read = 0  # how far `last_number` came, damage or not
        self._next = 0  # the number the kept position stands before
        self._file = -1
        self._segment_first = 0
        self._block = b""  # what was read of the file, and
        self._at = 0  # how far into it the position stands

    def __repr__(self) -> str:
        return f"<JournalReader {self.journal_id} before {self._next}>"

    def read(self, first: int, last: int, limit: int) -> list[Entry]:
        """Up to `limit` entries from `first` to `last`; fewer where the journal ends for now.

        Where the lines from `first` on are gone, the entries begin at the first one that is left. Raises JournalDamagedError for damage anywhere but in the last line.
        """
        if first != self._next or self._file < 0:
            self._seek(first)
        entries: list[Entry] = []
        while self._next <= last and len(entries) < limit:
            entry = self._entry_behind(entries)
            if entry is None:
                break
            if entry.number == MARK:
                continue
            if entry.number >= first:
                entries.append(entry)
            self._next = entry.number + 1
        return entries

    def _entry_behind(self, entries: list[Entry]) -> Entry | None:
        """The next entry if it follows on the ones read so far; where there is a gap or damage, the next read meets it."""
        try:
            entry = self._next_entry()
        except JournalDamagedError:
            self.close()
            if entries:
                return None
            raise
        if entry is not None and entries and entry.number not in (MARK, entries[-1].number + 1):
            self.close()
            return None
        return entry

    def first_number(self) -> int | None:
        """The first number that is still there; None in a journal without lines."""
        return next((first for first, _ in segments(self.path)), None)

    def last_number(self) -> int:
        """The last whole line's number, 0 in an empty journal. Raises JournalDamagedError."""
        self.last_read = max((first for first, _ in segments(self.path)), default=1) - 1
        while entries := self.read(self.last_read + 1, self.last_read + 4096, 4096):
            self.last_read = entries[-1].number
        return self.last_read

    def close(self) -> None:
        """Give up the open file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _seek(self, number: int) -> None:
        """Stand at the start of the segment that holds `number`; the lines before it are read over."""
        self.close()
        self._next = 0
        start = None
        for first, _ in segments(self.path):
            if start is None or first <= number:
                start = first
        if start is not None:
            self._open(start)

    def _open(self, first: int) -> None:
        self.close()
        self._file = os.open(_segment(self.path, first), os.O_RDONLY)
        self._block, self._at = b"", 0
        self._next = self._segment_first = first

    def _next_entry(self) -> Entry | None:
        """The line at the position, or None where the journal ends for now."""
        if self._file < 0:
            return None
        line = self._next_line()
        if line is None:
            following = self._following_segment()
            if following is None:
                return None
            self._open(following)
            line = self._next_line()
            if line is None:
                return None
        entry = _parse(line)
        if entry is None or entry.number not in (MARK, self._next):
            raise JournalDamagedError(
                f"{_segment(self.path, self._segment_first)}: line {self._next} is damaged; the file is kept, "
                "and nothing of it from there on is applied",
                self._segment_first,
            )
        return entry

    def _following_segment(self) -> int | None:
        """The segment behind the one that is read; the very next one, or the next that is left."""
        return next(
            (first for first, _ in segments(self.path) if first >= self._next and first > self._segment_first), None
        )

    def _next_line(self) -> bytes | None:
        while True:
            end = self._block.find(b"\n", self._at)
            if end >= 0:
                line = self._block[self._at : end]
                self._at = end + 1
                return line
            more = os.read(self._file, READ_BYTES)
            if not more:
                return None
            self._block, self._at = self._block[self._at :] + more, 0


def segments(path: Path) -> Iterator[tuple[int, Path]]:
    """First number and file of every segment of a journal, in order."""
    for file in sorted(path.glob("*.log")):
        yield int(file.stem), file


def readable(segment: Path) -> Iterator[Entry]:
    """Every whole line of a segment whose checksum holds, marks included; what is damaged is passed over."""
    for line in segment.read_bytes().split(b"\n")[:-1]:
        entry = _parse(line)
        if entry is not None:
            yield entry


def lock_abandoned(path: Path) -> int | None:
    """Take the lock of a journal whose owner is gone: the open lock (close it to give it up), None if it is in use."""
    lock = _open_lock(path)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    return lock


def _create_locked(path: Path) -> int:
    """Make the directory and take its lock before anyone can find it by its name."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unborn = path.with_name(f".{path.name}")
    unborn.mkdir(mode=0o700)
    lock = _open_lock(unborn)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    unborn.rename(path)
    sync_directory(path.parent)
    return lock


def journals_in(directory: Path) -> list[Path]:
    """The journals of a data dir, oldest first by name; those just being made are left out."""
    return sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith("."))


def _open_lock(path: Path) -> int:
    return open_own(path / "lock", os.O_RDWR | os.O_CREAT)


def _short_write(path: Path) -> OSError:
    return OSError(errno.ENOSPC, f"{path}: short write, is the disk full?")


def _segment(path: Path, first: int) -> Path:
    return path / f"{first:020d}.log"


def _parse(line: bytes) -> Entry | None:
    head, _, payload = line.partition(b" ")
    checksum, _, payload = payload.partition(b" ")
    try:
        number, crc = int(head), int(checksum, 16)
    except ValueError:
        return None
    return Entry(number, payload) if zlib.crc32(payload, number & 0xFFFFFFFF) == crc else None


def sync_directory(path: Path) -> None:
    """Force a directory's entries to the disk: a new or renamed file is not there for good before. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
