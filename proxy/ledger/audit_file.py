"""The audit trail on the local disk: one file a chain in the data dir, appended under a lock, forced to the disk at once.

    <data dir>/audit/lock                     flock, held for one append: supervisor, console and commands all write here
    <data dir>/audit/0001-<8 hex digits>.log  the entries, one line each, as `audit` encodes them

Rule 1: an append is one `write` and one fsync; one that fails leaves no trace in the file.
Rule 2: a torn last line was never confirmed to anybody, and is dropped; one that only lacks its newline gets it.
Rule 3: whoever writes may be root, in a folder of the service's user: no file is opened through a symlink, and only what was just
        made is given to that user.
Rule 4: nothing is ever appended to what does not hold. Behind a damaged line, or with another secret, a new chain begins, whose
        first entry says where the one before it stood.
"""

import errno
import fcntl
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from proxy.errors import AuditUnwritableError
from proxy.ledger.audit import (
    Action,
    AuditEntry,
    Head,
    Note,
    decoded,
    encoded,
    entry_behind,
    head_of,
    holds,
    key_id,
    note_of,
)
from proxy.ledger.folders import create, make_for_owner, open_own
from proxy.ledger.journal import sync_directory

FOLDER: Final = "audit"
_CHAIN: Final = re.compile(r"^\d{4,}-[0-9a-f]{8}$")
TAIL_BYTES: Final = 32 * 1024
"""More than any line has: a detail is at most 4 KiB, and the other texts a few hundred characters."""

log = structlog.get_logger(__name__)


class Content(NamedTuple):
    """What stands in a chain's file: its entries up to the first damaged line, and which line that is (0: none)."""

    chain: str
    entries: list[AuditEntry]
    damaged_line: int = 0


class _End(NamedTuple):
    """Where the next line goes: the head, the size of what holds, and the text that is to come first (a lost newline)."""

    head: Head
    size: int
    mend: bytes = b""
    why_not: str = ""


class AuditFile:
    """The chains of a data dir. Keeps nothing open and remembers nothing: others write, too."""

    def __init__(self, data_dir: Path, key: bytes) -> None:
        self.folder = data_dir / FOLDER
        self._key = key

    def __repr__(self) -> str:
        return f"<AuditFile {self.folder} key={key_id(self._key)}>"

    @property
    def key(self) -> bytes:
        """The key of the MACs."""
        return self._key

    def chains(self) -> list[str]:
        """The chains that are there, oldest first."""
        return sorted(path.stem for path in self.folder.glob("*.log") if _CHAIN.match(path.stem))

    def read(self, chain: str) -> Content:
        """Everything in a chain, whether it holds or not. Raises OSError."""
        entries: list[AuditEntry] = []
        for number, line in enumerate(self._bytes(chain).split(b"\n")[:-1], start=1):
            entry = decoded(line)
            if entry is None:
                return Content(chain, entries, number)
            entries.append(entry)
        return Content(chain, entries)

    def size(self, chain: str) -> int:
        """The size of its file in bytes: another one means that there is something new. Raises OSError."""
        return self._path(chain).stat().st_size

    def head(self) -> Head | None:
        """The head of the newest chain; None where nothing was ever noted. Raises OSError."""
        chains = self.chains()
        entries = self.read(chains[-1]).entries if chains else []
        return head_of(entries[-1]) if entries else None

    def append(self, notes: Sequence[Note], *, who: str, at_ms: int) -> list[AuditEntry]:
        """Note these changes, all or none of them; the entries. Raises OSError."""
        with self._locked():
            chains = self.chains()
            end = self._end_of(chains[-1]) if chains else None
            if end is None or end.why_not:
                return self._begin(end, [_beginning(end), *notes], who, at_ms)
            entries = self._entries(end.head, notes, who, at_ms)
            self._write(self._path(end.head.chain), end.size, end.mend + _lines(entries))
            return entries

    def _begin(self, before: _End | None, notes: Sequence[Note], who: str, at_ms: int) -> list[AuditEntry]:
        """A new chain; its file appears whole, by a rename, or not at all."""
        ordinal = int(before.head.chain.partition("-")[0]) + 1 if before else 1
        chain = f"{ordinal:04d}-{secrets.token_hex(4)}"
        entries = self._entries(Head(chain, 0, ""), notes, who, at_ms)
        unborn = self.folder / "unborn"
        unborn.unlink(missing_ok=True)  # of one who died in the middle
        fd = create(unborn, for_owner=True)
        try:
            _write_through(fd, _lines(entries), unborn)
        finally:
            os.close(fd)
        unborn.rename(self._path(chain))
        sync_directory(self.folder)
        return entries

    def _entries(self, head: Head, notes: Sequence[Note], who: str, at_ms: int) -> list[AuditEntry]:
        entries: list[AuditEntry] = []
        for note in notes:
            entries.append(entry_behind(head, note, who=who, at_ms=at_ms, key=self._key))
            head = head_of(entries[-1])
        return entries

    def _write(self, path: Path, size: int, lines: bytes) -> None:
        """Write behind the first `size` bytes; what a writer that died left there is cut off first."""
        fd = open_own(path, os.O_WRONLY | os.O_APPEND)
        try:
            os.ftruncate(fd, size)
            try:
                _write_through(fd, lines, path)
            except OSError:
                os.ftruncate(fd, size)
                raise
        finally:
            os.close(fd)

    def _end_of(self, chain: str) -> _End:
        with os.fdopen(open_own(self._path(chain), os.O_RDONLY), "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - TAIL_BYTES, 0))
            whole, newline, torn = file.read().rpartition(b"\n")
        mended = self._holding(torn, chain)
        if mended is not None:
            return self._usable(mended, size, mend=b"\n")
        last = self._holding(whole.rpartition(b"\n")[2], chain)
        if not newline or last is None:
            return _End(Head(chain, 0, ""), size, why_not="its last line is damaged")
        return self._usable(last, size - len(torn))

    def _usable(self, last: AuditEntry, size: int, mend: bytes = b"") -> _End:
        other = last.key != key_id(self._key)
        return _End(head_of(last), size, mend, "it was made with another secret" if other else "")

    def _holding(self, line: bytes, chain: str) -> AuditEntry | None:
        """The entry in a line if it can have been written so. With another secret its MAC cannot be told."""
        entry = decoded(line)
        if entry is None or entry.chain != chain:
            return None
        return entry if entry.key != key_id(self._key) or holds(entry, self._key) else None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if not self.folder.is_dir():
            make_for_owner(self.folder)
            sync_directory(self.folder.parent)
        lock = self._open_lock()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _open_lock(self) -> int:
        path = self.folder / "lock"
        try:
            return create(path, for_owner=True)
        except FileExistsError:
            return open_own(path, os.O_RDWR)

    def _bytes(self, chain: str) -> bytes:
        with os.fdopen(open_own(self._path(chain), os.O_RDONLY), "rb") as file:
            return file.read()

    def _path(self, chain: str) -> Path:
        return self.folder / f"{chain}.log"


class Audit:
    """What a process notes with, under its name. Composed once: by the supervisor, the console, or `installation.audit_of`."""

    def __init__(self, file: AuditFile, who: str, wall_s: Callable[[], float] = time.time) -> None:
        """`who` is `supervisor`, `console`, `worker 0`, or an operator and a command."""
        self.file = file
        self._who = who
        self._wall_s = wall_s

    def __repr__(self) -> str:
        return f"<Audit by {self._who}>"

    def note(self, action: Action, subject: str, /, **detail: Any) -> AuditEntry:
        """Note one change, forced to the disk when this returns. Raises AuditUnwritableError; ValueError above 4 KiB."""
        return self.note_all([note_of(action, subject, detail)])[-1]

    def note_all(self, notes: Sequence[Note]) -> list[AuditEntry]:
        """Note several changes, all or none. Raises AuditUnwritableError."""
        try:
            return self.file.append(notes, who=self._who, at_ms=int(self._wall_s() * 1000))
        except OSError as error:
            what = ", ".join(f"{note.action} {note.subject}" for note in notes)
            raise AuditUnwritableError(f"audit trail {self.file.folder}: {error}; not noted: {what}") from error

    def try_note(self, action: Action, subject: str, /, **detail: Any) -> None:
        """As `note`, for a service that goes on without: what could not be noted is in the log."""
        try:
            self.note(action, subject, **detail)
        except AuditUnwritableError as error:
            log.error("audit_not_written", error=str(error))

    def log_head(self) -> None:
        """Write the head to the log, where whoever rewrites the data dir and Redis does not reach it."""
        try:
            head = self.file.head()
        except OSError as error:
            log.error("audit_not_read", error=str(error))
            return
        if head is not None:
            log.info("audit_head", chain=head.chain, number=head.number, mac=head.mac)


def _write_through(fd: int, lines: bytes, path: Path) -> None:
    if os.write(fd, lines) != len(lines):
        raise OSError(errno.ENOSPC, f"{path}: short write, is the disk full?")
    os.fsync(fd)


def _lines(entries: Sequence[AuditEntry]) -> bytes:
    return b"".join(encoded(entry) + b"\n" for entry in entries)


def _beginning(end: _End | None) -> Note:
    """What the first entry of a chain says: on which machine, and where the chain before it stood."""
    detail: dict[str, Any] = {"host": socket.gethostname()}
    if end is not None and end.why_not:
        detail |= {"after": end.head.chain, "why": end.why_not, "number": end.head.number, "mac": end.head.mac}
    return note_of(Action.CHAIN_BEGAN, "audit", detail)
