"""What the store answers: the results of its scripts, as plain values."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from proxy.pricing.budgets import Budget
from proxy.pricing.revisions import tag
from proxy.usage import Share


class Applied(NamedTuple):
    """The batch is in the counters."""

    last: int


class Behind(NamedTuple):
    """The batch's numbers do not follow on the one that is stored; nothing was changed."""

    stored: int


class RefusedBatch(NamedTuple):
    """The batch holds something that cannot be added; nothing was changed."""

    reason: str


class Unsettled(NamedTuple):
    """The batch relies on a number that the registry of revisions has not, or not any more; nothing was changed."""

    pair: str


class Held(NamedTuple):
    """What is reserved for an exchange."""

    shares: tuple[Share, ...]


class UsedUp(NamedTuple):
    """A budget has no room for what was wanted; nothing was reserved. Money in nano-units, `free_s` an instant in seconds."""

    budget: str
    spent_nanos: int
    held_nanos: int
    free_s: int


class PutRight(NamedTuple):
    """How many reservations were held again, how many given back, and for which exchanges something is held that is not open.

    `refused` says why nothing of it was done; empty where it was.
    """

    again: int = 0
    back: int = 0
    strangers: tuple[str, ...] = ()
    refused: str = ""


class Want(NamedTuple):
    """What to reserve in a budget: nano-units of its currency."""

    budget: Budget
    nanos: int


Result = Applied | Behind | Unsettled | RefusedBatch


class Position(NamedTuple):
    """Where the store stands with a journal: its epoch, the journal's number, and whether it was wiped or went back."""

    epoch: int
    number: int
    wiped: bool = False
    went_back: bool = False


class Snapshot(msgspec.Struct, frozen=True):
    """The counters as they stood at one instant of Redis' clock. Fields as in `families`, values as stored.

    `epoch` names the history of this Redis (0: it has none yet), `history_s` is when it last changed (0: never), and
    `numbers` are the last numbers applied, by journal, and `budgets` the hashes of the budgets asked for, in their order.
    """

    taken_s: float
    epoch: int
    totals: Mapping[bytes, bytes]
    series_seen_ms: Mapping[bytes, bytes]
    sightings: Mapping[bytes, bytes]
    spend: tuple[Mapping[bytes, bytes], ...]
    history_s: int = 0
    numbers: Mapping[bytes, bytes] = {}
    budgets: tuple[Mapping[bytes, bytes], ...] = ()


class Change(NamedTuple):
    """What answers under a name changed. `kind` is `revision` (another build of the version) or `version` (another one).

    `before` and `after` are version tags, `model` the name under which it was seen first, at `at_s`.
    """

    kind: str
    upstream: str
    model: str
    before: str
    after: str
    fingerprint: str
    at_s: float


class Books(NamedTuple):
    """What has to agree, as of one instant.

    The last number of every journal, behind which number each began (0 where nothing is said), the totals as stored, and
    the running sums (records, tokens, nano_usd, nano_cny) by journal.
    """

    numbers: Mapping[str, int]
    bases: Mapping[str, int]
    totals: Mapping[bytes, bytes]
    sums: Mapping[str, Mapping[str, int]]


def change_of(found: Mapping[str, str]) -> Change:
    """A change, by the fields of its event."""
    number, _, before = found["before"].partition(" ")
    return Change(
        kind=found["kind"],
        upstream=found["upstream"],
        model=found["model"],
        before=tag(before, int(number)),
        after=tag(found["version"], int(found["number"])),
        fingerprint=found["fingerprint"],
        at_s=float(found["at_s"]),
    )
