"""The client keys of one process: as the store has them, as this data dir has them, and how old that knowledge is.

Rule 1: a revocation that was seen stays, whatever Redis forgets, and is noted in the data dir and told to Redis again.
Rule 2: a key that Redis forgets is told to it again, by the data dir it was made in, and by whoever has compared his keys
        with Redis within the maximum age of the cache. Whoever was away for longer may have missed its revocation.
Rule 3: nothing here is on the path of a request: a request looks at `known` and `age_s`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any, Final, NamedTuple

import msgspec
import structlog

from proxy.errors import StoreUnavailableError
from proxy.ledger.client_keys import NOTHING, ClientKey, Known, lacking, together
from proxy.ledger.key_files import KeyFiles, Snapshot
from proxy.ledger.store import Script

POLL_EVERY_S: Final = 1.0
"""A revocation reaches every worker within this and the time of two calls."""

FRESH_S: Final = 3.0
"""How old keys may be that are taken for Redis' own: two polls may fail."""

SNAPSHOT_EVERY_S: Final = 10.0
SCRIPT: Final = resources.files(__package__).joinpath("client_keys.lua").read_bytes()
NAMES: Final = ("client_keys", "client_keys_revoked", "client_keys_state")

log = structlog.get_logger(__name__)


class Clocks(NamedTuple):
    """Seconds since the epoch, monotonic seconds, and a word that nobody has had before."""

    wall_s: Callable[[], float]
    monotonic_s: Callable[[], float]
    new_word: Callable[[], str]


def may_serve(age_s: float, on_store_down: str, maximum_age_s: float) -> bool:
    """True if keys of this age may open something: with `refuse` only Redis' own, else up to the maximum age."""
    return age_s <= (FRESH_S if on_store_down == "refuse" else max(maximum_age_s, FRESH_S))


class KeyRing:
    """Keeps `known` up to date. `run` is a task beside the data path; `refresh` is one round of it."""

    def __init__(
        self,
        ask: Script,
        files: KeyFiles,
        clocks: Clocks,
        *,
        maximum_age_s: float,
        keeps_snapshot: bool = True,
        keeps_changes: bool = True,
    ) -> None:
        """`keeps_snapshot`: one process per data dir is enough. Without `keeps_changes` nothing is written of what is learned."""
        self._ask = ask
        self._files = files
        self._clocks = clocks
        self._maximum_age_s = maximum_age_s
        self._keeps_snapshot = keeps_snapshot
        self._keeps_changes = keeps_changes
        self._state = ""
        self._theirs = NOTHING
        self._confirmed_s = float("-inf")
        self._snapshot_s = float("-inf")
        self._answers = True
        self.known = NOTHING

    def __repr__(self) -> str:
        return f"<KeyRing {self.known!r} answers={self._answers}>"

    @property
    def answers(self) -> bool:
        """True if the store answered when it was last asked."""
        return self._answers

    def age_s(self) -> float:
        """How long ago the keys were compared with the store; infinite where they never were."""
        return self._clocks.monotonic_s() - self._confirmed_s

    def load(self) -> None:
        """Begin with what the data dir has. Keys of a snapshot that is too old are left out, its revocations are not."""
        changes, snapshot = self._changes(), self._files.snapshot()
        if snapshot is not None:
            age_s = max(self._clocks.wall_s() - snapshot.at_s, 0.0)
            self._confirmed_s = self._clocks.monotonic_s() - age_s
            self.known = snapshot.known
        self.known = together(self._rightful(changes), changes)

    async def run(self) -> None:
        """Compare with the store once a second, for ever."""
        while True:
            await asyncio.sleep(POLL_EVERY_S)
            await self.try_refresh()

    async def try_refresh(self) -> bool:
        """One round; False where it failed, which is logged at the first time."""
        try:
            await self.refresh()
        except StoreUnavailableError as error:
            self._note_store(answers=False, error=str(error))
        except Exception as error:  # noqa: BLE001 - whatever went wrong with one round, the next one may learn of a revocation
            self._note_store(answers=False, error=repr(error))
        else:
            self._note_store(answers=True)
        return self._answers

    async def refresh(self) -> None:
        """Learn what is new here and in the store, tell the store what it lacks, and keep what was learned.

        Raises StoreUnavailableError; what is new in the data dir is known all the same.
        """
        changes = self._changes()
        self.known = together(self.known, changes)
        await self._note(changes)
        await self._exchange(NOTHING, changes)
        missing = lacking(self._theirs, self.known)
        if not missing.is_empty:
            log.warning("client_keys_told_again", keys=len(missing.keys), revocations=len(missing.revoked))
            await self._exchange(missing, changes)
        await self._note(changes)
        await self._keep_snapshot()

    async def _exchange(self, telling: Known, changes: Known) -> None:
        """Tell the store something, and learn what it knows."""
        asked_s = self._clocks.monotonic_s()
        answer = await self._ask(NAMES, [self._state, self._clocks.new_word(), *_arguments(telling)])
        if answer[1] != b"same":
            self._theirs = Known(_keys(answer[2]), _instants(answer[3]))
            self.known = together(self._rightful(changes), self._theirs)
            self._snapshot_s = float("-inf")  # a change is kept at once
        self._state = answer[0].decode()
        self._confirmed_s = asked_s

    def _rightful(self, changes: Known) -> Known:
        """What may be held against the store: all of it, or, where too old, what was made here and every revocation."""
        if self.age_s() <= self._maximum_age_s:
            return self.known
        return Known(changes.keys, self.known.revoked)

    def _changes(self) -> Known:
        try:
            return self._files.changes()
        except OSError as error:
            log.error("client_keys_unreadable", error=str(error))
            return NOTHING

    async def _note(self, changes: Known) -> None:
        """Keep the revocations that were learned. A disk that refuses them is asked again in the next round."""
        learned = lacking(changes, Known({}, self.known.revoked))
        if learned.is_empty or not self._keeps_changes:
            return
        try:
            await asyncio.to_thread(self._files.note, learned)
        except OSError as error:
            log.error("client_keys_not_noted", revocations=len(learned.revoked), error=str(error))

    async def _keep_snapshot(self) -> None:
        now_s = self._clocks.monotonic_s()
        if not self._keeps_snapshot or now_s - self._snapshot_s < SNAPSHOT_EVERY_S:
            return
        try:
            await asyncio.to_thread(self._files.keep_snapshot, Snapshot(self._clocks.wall_s(), self.known))
            self._snapshot_s = now_s
        except OSError as error:
            log.error("client_keys_snapshot_not_written", error=str(error))

    def _note_store(self, *, answers: bool, error: str = "") -> None:
        if answers != self._answers:
            log.warning("client_keys_compared_again" if answers else "client_keys_not_compared", error=error)
        self._answers = answers


def _arguments(telling: Known) -> list[str | bytes]:
    keys = [part for key in telling.keys.values() for part in (key.id, msgspec.json.encode(key))]
    dates = [part for key_id, at_s in telling.revoked.items() for part in (key_id, f"{at_s:.3f}")]
    return [str(len(telling.keys)), *keys, *dates]


def _pairs(flat: Sequence[bytes]) -> Mapping[str, bytes]:
    return {name.decode("utf-8", "replace"): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _keys(flat: Sequence[bytes]) -> dict[str, ClientKey]:
    """The keys that can be read, and stand under their own id; any other is refused like one that is not there."""
    found: dict[str, ClientKey] = {}
    for key_id, text in _pairs(flat).items():
        try:
            key = msgspec.json.decode(text, type=ClientKey)
        except msgspec.DecodeError as error:
            log.warning("client_key_unreadable", id=key_id, error=str(error))
            continue
        if key.id == key_id:
            found[key_id] = key
    return found


def _instants(flat: Sequence[bytes]) -> dict[str, float]:
    """When each was revoked. One whose instant cannot be read is revoked all the same."""
    return {key_id: _instant(value) for key_id, value in _pairs(flat).items()}


def _instant(value: Any) -> float:
    try:
        return float(value)
    except ValueError:
        return 0.0
