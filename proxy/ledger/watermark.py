"""How far a journal has been applied, kept beside it on the disk: what a Redis that was wiped cannot tell any more.

One line of fixed length, overwritten in place and never synced: after a power loss it may be older than the truth or
torn, and is then taken for less than the truth. Too low a watermark costs nothing but asking Redis.
"""

import os
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from proxy.ledger.folders import open_own

NAME: Final = "applied"
YOUNG_S: Final = 3600
"""A history that had lasted for less than this when a batch was last applied may have been lost by a crash of Redis
together with its epoch. It is not relied on: what was applied in it is sent again."""


class Applied(NamedTuple):
    """The highest number ever applied, in which epoch of the store, and when (seconds since the epoch of Unix)."""

    epoch: int = 0
    number: int = 0
    at_s: int = 0

    @property
    def known_epoch(self) -> int:
        """The epoch to rely on; 0 where it was too young."""
        return self.epoch if self.at_s - self.epoch >= YOUNG_S else 0


class Watermark:
    """The file of one journal."""

    def __init__(self, journal: Path) -> None:
        self._path = journal / NAME

    def __repr__(self) -> str:
        return f"<Watermark {self._path} {self.read()}>"

    def read(self) -> Applied:
        """What is noted; nothing where nothing, or nothing whole, was."""
        try:
            *numbers, checksum = self._path.read_bytes().split()
            if len(numbers) == len(Applied._fields) and int(checksum, 16) == zlib.crc32(b" ".join(numbers)):
                return Applied(*map(int, numbers))
        except (OSError, ValueError):
            return Applied()
        return Applied()

    def write(self, applied: Applied) -> None:
        """Note it. Raises OSError."""
        text = b"%020d %020d %020d" % applied
        fd = open_own(self._path, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(fd, b"%b %08x\n" % (text, zlib.crc32(text)), 0)
        finally:
            os.close(fd)
