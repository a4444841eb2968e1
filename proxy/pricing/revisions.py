"""Revisions: one version that begins to answer with another fingerprint under an unchanged name. Pure.

The catalog knows versions; it cannot know of a change nobody announced. A registry shared by all workers (in Redis,
`ledger/settle.lua`) gives each fingerprint of a version a number, in the order in which they came: the first one stands for
the version itself, the next for `+r2`, up to `+r20`, and all beyond for `+other`. So the cost before and after a silent
change is split by itself. Here is what the numbers mean; who gives them and keeps them is the ledger's business.
"""

import re
from typing import Final

import msgspec

from proxy.pricing.catalog import fingerprint_key
from proxy.usage import How, UsageRecord

REVISION: Final = "+r"
"""What stands before the number of a revision: `DeepSeek-V4.1-Flash-1017+r2`."""

OTHER: Final = "+other"
MOST: Final = 20
"""The highest number that is a revision of its own. An upstream that changes more often is not told apart any further."""

_TAG: Final = re.compile(r"[^+]+(\+(r([1-9]|1\d|20)|other))?")

_OF_THE_CATALOG: Final = frozenset({How.ROUTE, How.FINGERPRINT, How.ALIAS})


class Place(msgspec.Struct, frozen=True):
    """What a revision is settled for: the version, the host it answers on, and what tells its builds apart.

    Two hosts of one version have fingerprints of their own; that is no change. `model` is the name asked for: the registry
    also notes which versions a name has meant. An empty `fingerprint` stands for an answer without one.
    """

    version: str
    upstream: str
    model: str
    fingerprint: str


def place_of(record: UsageRecord) -> Place | None:
    """What to ask the registry for; None where nothing answered, or nobody can tell what did.

    A served name that the catalog does not know has a meaning (it may be what a name means from now on) and no revision:
    hosts put what they like into its fingerprint.
    """
    if not record.served_model:
        return None
    if record.how in _OF_THE_CATALOG:
        return Place(record.version, record.upstream, record.model, fingerprint_key(record.fingerprint))
    return Place(record.version, record.upstream, record.model, "") if record.how is How.SERVED_NAME else None


def tag(version: str, number: int) -> str:
    """The version tag of a number: the version itself for 1 (and for 0: not told), then `+r2` to `+r20`, then `+other`."""
    if number <= 1:
        return version
    return f"{version}{REVISION}{number}" if number <= MOST else version + OTHER


def is_tag(text: str) -> bool:
    """True where a text has the form of a version tag: what a client expects may be anything, and becomes a label."""
    return _TAG.fullmatch(text) is not None


def base_of(version: str) -> str:
    """A version tag without its revision."""
    return version.partition("+")[0]


def settled(record: UsageRecord, number: int) -> UsageRecord:
    """The record under its tag. An expectation that names a revision is judged here, since only now it can be.

    `+r1` is the version itself. The record is returned as it is where the tag changes nothing, and where `number` is 0: an
    answer without a fingerprint belongs to no revision that could be told.
    """
    if not number:
        return record
    version = tag(record.version, number)
    mismatch = record.version_mismatch or _missed(record.expected_version, version)
    if version == record.version and mismatch == record.version_mismatch:
        return record
    return msgspec.structs.replace(record, version=version, version_mismatch=mismatch)


def _missed(expected: str, version: str) -> str:
    """The expectation, where it names another revision of the version that answered; empty where it does not."""
    if "+" not in expected or not is_tag(expected) or base_of(expected) != base_of(version):
        return ""
    return "" if expected in (version, f"{version}{REVISION}1") else expected
