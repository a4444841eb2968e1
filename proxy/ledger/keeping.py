"""How long applied segments of a journal are kept, for a store that goes back; and what becomes of damaged ones."""

from collections.abc import Container
from pathlib import Path
from typing import Final

from proxy.ledger.journal import segments
from proxy.settings import JournalSettings

DAMAGED: Final = ".damaged"
"""The suffix of a segment that could not be read to its end: kept for people to look at."""


def drop_old(
    path: Path, applied: int, damaged: Container[int], settings: JournalSettings, *, keep_newest: bool, now_s: float
) -> None:
    """Delete applied segments that are older, or more, than what is kept for a replay; damaged ones stay under another name.

    `applied` is the last number that is in the counters, `damaged` the first numbers of damaged segments. Raises OSError.
    """
    found = list(segments(path))
    ends = [*(first - 1 for first, _ in found[1:]), applied]
    if keep_newest:
        found = found[:-1]
    kept_bytes = 0
    for (first, file), last in reversed(list(zip(found, ends, strict=False))):
        stat = file.stat()
        kept_bytes += stat.st_size
        old = now_s - stat.st_mtime > settings.keep_seconds
        if last <= applied and (old or kept_bytes > settings.keep_bytes):
            _drop(file, damaged=first in damaged)


def _drop(segment: Path, *, damaged: bool) -> None:
    if damaged:
        segment.rename(segment.with_suffix(DAMAGED))
    else:
        segment.unlink()
