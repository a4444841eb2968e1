"""Proves an audit trail, or names the first entry at which it breaks: chains, their copies in Redis, and heads out of logs. Pure.

What is told: an entry that was edited, left out, added, moved or cut off the beginning breaks the MACs or the numbers. One cut off
the end, and a chain written anew by somebody with the secret, still look whole; the copy and the logged heads tell these.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

import msgspec

from proxy.ledger.audit import Action, AuditEntry, Head, decoded, head_of, holds, key_id
from proxy.ledger.audit_file import Content
from proxy.ledger.audit_stream import Copy

HEAD_EVENT: Final = "audit_head"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;]*m")
_NUMERAL: Final = re.compile(r"^[0-9]{1,18}$")
_FIELD: Final = r"""\b{name}\b[\\"']*\s*[=:]\s*[\\"']*({value})(?![0-9a-zA-Z])"""
_CHAIN, _NUMBER, _MAC = (
    re.compile(_FIELD.format(name=name, value=value))
    for name, value in (("chain", r"\d{4,}-[0-9a-f]{8}"), ("number", r"\d{1,18}"), ("mac", "[0-9a-f]{64}"))
)


class Fault(msgspec.Struct, frozen=True):
    """What does not hold: in the `file`, in the `stream`, or against the `heads`; of which entry (0: of the chain as a whole)."""

    place: str
    chain: str
    number: int
    what: str

    def __str__(self) -> str:
        entry = f" entry {self.number}" if self.number else ""
        return f"{self.place}: {self.chain or 'an unknown chain'}{entry}: {self.what}"


class ChainProof(msgspec.Struct, frozen=True):
    """One chain: its last entry, and what was compared.

    `here` is False for a chain that only the stream has: another installation's on the same Redis. `checked` is False where it was made
    with another secret, so that only its links could be compared. `pending` entries are not in the stream yet.
    """

    chain: str
    number: int
    mac: str
    here: bool
    checked: bool
    pending: int = 0
    heads: int = 0


class Proof(msgspec.Struct, frozen=True):
    """All chains, and everything that does not hold. Pending entries are none of the faults, and not fine either."""

    chains: list[ChainProof]
    faults: list[Fault]

    @property
    def pending(self) -> int:
        """Entries of this installation that are not in the stream yet."""
        return sum(chain.pending for chain in self.chains)

    @property
    def fine(self) -> bool:
        """True where everything holds and both copies are the same."""
        return not self.faults and not self.pending and any(chain.here for chain in self.chains)


def proof(
    contents: Sequence[Content], copies: Sequence[Copy], stored: Mapping[str, int], heads: Sequence[Head], key: bytes
) -> Proof:
    """Compare everything. `contents` are the files, oldest first, `stored` the last numbers that the stream says it has."""
    streams, faults = _in_stream(copies)
    chains = []
    for content in contents:
        copied = streams.pop(content.chain, [])
        last = stored.get(content.chain, 0)
        faults += [*_file_faults(content, key), *_copy_faults(content, copied, last)]
        chains.append(_chain(content.entries, content.chain, heads, key, pending=max(len(content.entries) - last, 0)))
    faults += _order_faults(contents, key)
    for chain, entries in sorted(streams.items()):
        faults += [*_breaks("stream", chain, entries, key), *_cut_off(chain, entries, stored.get(chain, 0))]
        chains.append(_chain(entries, chain, heads, key, here=False))
    faults += [
        Fault("stream", chain, last, "the whole chain is missing in the stream, and there is no file of it either")
        for chain, last in sorted(stored.items())
        if last and chain not in {one.chain for one in chains}
    ]
    known = {content.chain: content.entries for content in contents} | streams
    return Proof(chains, [*faults, *_head_faults(heads, known)])


def heads_in(lines: Iterable[str]) -> Iterator[Head]:
    """The heads in a log, JSON or text, whatever was put before each line. Raises ValueError with a line that is torn."""
    for line in lines:
        if HEAD_EVENT not in line:
            continue
        plain = _COLOUR.sub("", line)
        chain, number, mac = (pattern.search(plain) for pattern in (_CHAIN, _NUMBER, _MAC))
        if not (chain and number and mac):
            raise ValueError(plain.strip()[:120])
        yield Head(chain[1], int(number[1]), mac[1])


def _chain(
    entries: Sequence[AuditEntry], chain: str, heads: Sequence[Head], key: bytes, *, pending: int = 0, here: bool = True
) -> ChainProof:
    last = entries[-1] if entries else None
    return ChainProof(
        chain=chain,
        number=last.number if last else 0,
        mac=last.mac if last else "",
        here=here,
        checked=bool(entries) and entries[0].key == key_id(key),
        pending=pending,
        heads=sum(head.chain == chain for head in heads),
    )


def _file_faults(content: Content, key: bytes) -> Iterator[Fault]:
    found = list(_breaks("file", content.chain, content.entries, key))
    yield from found
    if content.damaged_line and not found:
        yield Fault("file", content.chain, content.damaged_line, "cannot be read, or is not as it was written")
    elif not content.entries:
        yield Fault("file", content.chain, 0, "is empty; every entry is missing")


def _breaks(place: str, chain: str, entries: Sequence[AuditEntry], key: bytes) -> Iterator[Fault]:
    """The first entry that does not hold, if there is one."""
    before = Head(chain, 0, "")
    for entry in entries:
        what = _break(entry, before, entries[0].key, key)
        if what:
            yield Fault(place, chain, before.number + 1, what)
            return
        before = head_of(entry)


def _break(entry: AuditEntry, before: Head, named: str, key: bytes) -> str:
    """What is wrong with an entry that should follow on a head; empty where it holds."""
    if entry.chain != before.chain:
        return f"in its place stands an entry of the chain {entry.chain}"
    if entry.number != before.number + 1:
        return f"is missing here; in its place stands entry {entry.number}"
    if entry.key != named:
        return "was made with another secret than the entries before it"
    if entry.key == key_id(key) and not holds(entry, key):
        return "was changed: its MAC is not its own"
    return "does not follow on the entry before it" if entry.previous != before.mac else ""


def _in_stream(copies: Sequence[Copy]) -> tuple[dict[str, list[AuditEntry]], list[Fault]]:
    """The entries of the stream by chain, and what cannot be taken for one."""
    found: dict[str, list[AuditEntry]] = defaultdict(list)
    faults = []
    for copy in copies:
        entry = decoded(copy.entry)
        if entry is None or (entry.chain, str(entry.number)) != (copy.chain, copy.number):
            number = int(copy.number) if _NUMERAL.match(copy.number) else 0
            what = f"cannot be read, or is not as it was written (stream id {copy.stream_id})"
            faults.append(Fault("stream", copy.chain, number, what))
        else:
            found[copy.chain].append(entry)
    return found, faults


def _copy_faults(content: Content, copied: Sequence[AuditEntry], stored: int) -> Iterator[Fault]:
    """Where the stream differs from the file, up to what the stream says it had: each entry, in order."""
    here = {entry.number: entry for entry in content.entries}
    there: dict[int, list[AuditEntry]] = defaultdict(list)
    for entry in copied:
        there[entry.number].append(entry)
    for number in sorted({*range(1, min(stored, len(here)) + 1), *there}):
        found = there.get(number, [])
        if len(found) > 1:
            yield Fault("stream", content.chain, number, f"is there {len(found)} times")
        if not found:
            yield Fault("stream", content.chain, number, "is missing")
        elif number not in here:
            yield Fault("file", content.chain, number, "is missing; the stream has it")
        elif found[0] != here[number]:
            yield Fault("stream", content.chain, number, "is not what the file has")
    if stored > max([*here, *there], default=0):
        yield Fault("file", content.chain, len(here) + 1, f"is missing; the stream once had {stored} of this chain")
    if [entry.number for entry in copied] != sorted(there) and all(len(found) == 1 for found in there.values()):
        yield Fault("stream", content.chain, 0, "its entries do not stand in order")


def _cut_off(chain: str, entries: Sequence[AuditEntry], stored: int) -> Iterator[Fault]:
    if len(entries) < stored:
        yield Fault("stream", chain, len(entries) + 1, f"is missing; the stream once had {stored} of this chain")


def _order_faults(contents: Sequence[Content], key: bytes) -> Iterator[Fault]:
    """Each chain but the first goes on from the one before it, and says where that stood. The newest is made with our secret."""
    before: Content | None = None
    for content in contents:
        if content.entries:
            yield from _beginning_faults(content, before, key)
        before = content
    newest = contents[-1].entries if contents else []
    if newest and newest[0].key != key_id(key):
        yield Fault(
            "file",
            contents[-1].chain,
            0,
            "the newest chain was made with another secret than [gateway] key_hash_secret",
        )


def _beginning_faults(content: Content, before: Content | None, key: bytes) -> Iterator[Fault]:
    first = content.entries[0]
    if _break(first, Head(content.chain, 0, ""), first.key, key):
        return  # told already
    if first.action is not Action.CHAIN_BEGAN:
        yield Fault("file", content.chain, 1, "is not the beginning of a chain")
        return
    after, number, mac = (first.detail.get(name) for name in ("after", "number", "mac"))
    if after is None and before is None:
        return
    if before is None or after != before.chain:
        yield Fault("file", str(after or (before.chain if before else "")), 0, f"is missing before {content.chain}")
    elif number:
        stood = before.entries[-1] if before.entries else None
        if stood is None or (stood.number, stood.mac) != (number, mac):
            yield Fault("file", before.chain, int(number), f"is not its last one, as {content.chain} says it was")


def _head_faults(heads: Iterable[Head], chains: Mapping[str, Sequence[AuditEntry]]) -> Iterator[Fault]:
    """Each logged head has to be in its chain still, as it was."""
    for head in dict.fromkeys(heads):
        entries = chains.get(head.chain)
        entry = next((one for one in entries or () if one.number == head.number), None)
        if entries is None:
            yield Fault("heads", head.chain, head.number, "was logged, and the whole chain is gone")
        elif entry is None:
            yield Fault("heads", head.chain, head.number, f"was logged, and the chain ends at {len(entries)}: cut off")
        elif entry.mac != head.mac:
            yield Fault("heads", head.chain, head.number, "was logged with another MAC: history was written anew")
