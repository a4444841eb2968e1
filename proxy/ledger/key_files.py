r"""What a data dir keeps of client keys: the changes made or learned here, and a snapshot of all keys for when Redis is away.

    <data dir>/client_keys/changes.log     <crc32 of the change> <change as JSON>\n     appended, fsynced, never shortened
    <data dir>/client_keys/snapshot.json   every key as the store last had it, and when; written whole or not at all

Rule 1: whoever appends holds a lock, begins on a line of its own behind a torn one, and returns after the fsync.
Rule 2: a line whose checksum does not hold is passed over, and so costs itself alone.
Rule 3: what was learned of a revocation is a change, too: a store that forgets it is told again from here.
"""

import fcntl
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from proxy.ledger.client_keys import NOTHING, Change, Known, added, known_from, lacking, revoked, together
from proxy.ledger.folders import create, make_private, open_own
from proxy.ledger.journal import sync_directory

FOLDER: Final = "client_keys"


class Snapshot(msgspec.Struct, frozen=True):
    """What the store knew at `at_s` (seconds since the epoch)."""

    at_s: float
    known: Known


class KeyFiles:
    """The files of one data dir. Several processes may use them at once."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER
        self._changes = self._folder / "changes.log"
        self._snapshot = self._folder / "snapshot.json"
        self._read_bytes = 0  # of the changes, up to the last whole line
        self._known = NOTHING

    def __repr__(self) -> str:
        return f"<KeyFiles {self._folder} {self._known!r}>"

    def changes(self) -> Known:
        """What follows from the changes, those of other processes included. Reads what is new. Raises OSError."""
        try:
            with self._changes.open("rb") as file:
                if os.fstat(file.fileno()).st_size != self._read_bytes:
                    self._take(file.fileno())
        except FileNotFoundError:
            return self._known
        return self._known

    def note(self, known: Known) -> None:
        """Append what is not among the changes yet; it is on the disk when this returns. Raises OSError."""
        make_private(self._folder)
        fd = open_own(self._changes, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            self._take(fd)
            lines = b"".join(map(_line, _changes_of(lacking(self._known, known))))
            if lines:
                _append(fd, lines)
                sync_directory(self._folder)
                self._take(fd)
        finally:
            os.close(fd)

    def snapshot(self) -> Snapshot | None:
        """The snapshot; None where there is none, or none that can be read."""
        try:
            return msgspec.json.decode(self._snapshot.read_bytes(), type=Snapshot)
        except (OSError, msgspec.DecodeError):
            return None

    def keep_snapshot(self, snapshot: Snapshot) -> None:
        """Write the snapshot. Raises OSError, with the old one as it was."""
        make_private(self._folder)
        unborn = self._snapshot.with_suffix(f".{os.getpid()}.new")
        unborn.unlink(missing_ok=True)  # of one who died in the middle
        with os.fdopen(create(unborn), "wb") as file:
            file.write(msgspec.json.encode(snapshot))
        unborn.rename(self._snapshot)

    def _take(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        if size < self._read_bytes:  # somebody put another file there; what was read stays known
            self._read_bytes = 0
        data = os.pread(fd, size - self._read_bytes, self._read_bytes)
        whole = data[: data.rfind(b"\n") + 1]
        self._read_bytes += len(whole)
        self._known = together(self._known, known_from(_readable(whole)))


def _changes_of(known: Known) -> Iterator[Change]:
    yield from map(added, known.keys.values())
    for key_id, at_s in known.revoked.items():
        yield revoked(key_id, at_s)


def _append(fd: int, lines: bytes) -> None:
    size = os.fstat(fd).st_size
    torn = size > 0 and os.pread(fd, 1, size - 1) != b"\n"
    data = memoryview(b"\n" + lines if torn else lines)
    while data:
        data = data[os.write(fd, data) :]
    os.fsync(fd)


def _line(change: Change) -> bytes:
    payload = msgspec.json.encode(change)
    return b"%08x %b\n" % (zlib.crc32(payload), payload)


def _readable(lines: bytes) -> Iterable[Change]:
    for line in lines.split(b"\n")[:-1]:
        checksum, _, payload = line.partition(b" ")
        try:
            if int(checksum, 16) == zlib.crc32(payload):
                yield msgspec.json.decode(payload, type=Change)
        except (ValueError, msgspec.DecodeError):
            continue
