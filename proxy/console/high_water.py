"""Whether the store has gone back behind what was shown: then its counters are not shown, until it has caught up.

Prometheus takes a counter that falls for a restart and adds the whole of it to `increase()`. So the highest number seen
of every journal is remembered, on the disk, since a console may be restarted together with a Redis that lost its last
seconds. Another epoch is another history, whose counters begin anew: nothing is compared then, unless the old one was so
young that its owners send everything again (`watermark.YOUNG_S`).
Plain decisions: the snapshot and the time come in; only `load` and `save` touch a file.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
import structlog

from proxy.console.files import write_whole
from proxy.ledger.answers import Snapshot
from proxy.ledger.watermark import YOUNG_S

GIVE_UP_S: Final = 120.0
"""How long a store that does not move may be behind. Whoever could have caught it up is gone: what it lost stays lost."""

log = structlog.get_logger(__name__)


class Seen(msgspec.Struct):
    """The highest numbers seen, by journal, in one epoch of the store, and when (its clock)."""

    epoch: int = 0
    at_s: float = 0.0
    numbers: dict[str, int] = {}


class HighWater:
    """Remembers what was shown."""

    def __init__(self, seen: Seen | None = None) -> None:
        self._seen = seen or Seen()
        self._behind: Mapping[str, int] = {}
        self._moved_s = float("-inf")
        self.catching_up = False

    def __repr__(self) -> str:
        return f"<HighWater epoch={self._seen.epoch} journals={len(self._seen.numbers)} behind={len(self._behind)}>"

    @property
    def seen(self) -> Seen:
        """What to save."""
        return self._seen

    def take(self, snapshot: Snapshot, now_s: float) -> bool:
        """Take a snapshot in (`now_s` monotonic). True if it may be shown."""
        numbers = {name.decode(): int(number) for name, number in snapshot.numbers.items()}
        if not snapshot.epoch:  # new or wiped, and nobody has compared his journal with it yet
            self.catching_up = True
            return False
        if snapshot.epoch != self._seen.epoch:
            young = self._seen.at_s - self._seen.epoch < YOUNG_S
            self._seen = Seen(snapshot.epoch, 0.0, self._seen.numbers if young else {})
        behind = {
            name: numbers.get(name, 0) for name, high in self._seen.numbers.items() if numbers.get(name, 0) < high
        }
        if behind != self._behind:
            self._behind, self._moved_s = behind, now_s
        self.catching_up = bool(behind) and now_s - self._moved_s < GIVE_UP_S
        if self.catching_up:
            return False
        if behind:
            log.error("records_lost_by_the_store", journals=len(behind), hint="deepseek-meter verify")
            self._behind = {}
        self._seen = Seen(snapshot.epoch, snapshot.taken_s, numbers)
        return True


def load(path: Path) -> Seen:
    """What was saved; nothing where that is not there or not whole."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Seen)
    except (OSError, msgspec.DecodeError):
        return Seen()


def save(path: Path, seen: Seen) -> None:
    """Save it, whole or not at all. Raises OSError."""
    write_whole(path, msgspec.json.encode(seen))
