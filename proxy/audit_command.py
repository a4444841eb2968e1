"""`verify --audit`: reads the trail of the data dir, its copy in Redis and heads out of logs, and says whether it is whole."""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from proxy.command_options import print_lines, print_table
from proxy.errors import MeterError, SettingsError
from proxy.gateway_process import open_store
from proxy.installation import audit_of, store_url
from proxy.ledger.audit import Action, Head
from proxy.ledger.audit_file import FOLDER, Audit, AuditFile
from proxy.ledger.audit_proof import ChainProof, Proof, heads_in, proof
from proxy.ledger.audit_stream import AuditShipper
from proxy.ledger.verify import Refilled
from proxy.settings import Settings

LOOK_EVERY_S: Final = 0.5
_WIDTH: Final = 160
_HEADS: Final = ("chain", "entries", "pending", "logged heads", "of", "MACs", "head")
SHOWN: Final = 20
"""Faults shown in a terminal: the first ones say where to look, and a chain that is gone has hundreds."""


def prove(settings: Settings, heads_files: Sequence[str], wait_s: float) -> Proof:
    """What holds and what does not. Entries on their way are given `wait_s` to arrive. Raises MeterError."""
    heads = [head for name in heads_files for head in _heads(name)]
    folder = Path(settings.store.data_dir) / FOLDER
    if not folder.is_dir():
        raise MeterError(f"{folder}: there is no audit trail; is [store] data_dir the right one?")
    file = audit_of(settings, "verify --audit").file
    with store_url(settings) as url:
        return asyncio.run(_prove(settings, url, file, heads, wait_s))


def note_refill(settings: Settings, refilled: Sequence[Refilled]) -> None:
    """Note what `verify --refill` sent again. Raises MeterError."""
    detail = {one.journal: [one.first, one.last] for one in refilled[:SHOWN]}
    audit = audit_of(settings, "verify --refill")
    records = sum(one.last - one.first + 1 for one in refilled)
    audit.note(Action.REFILLED, "journals", journals=len(refilled), records=records, sent=detail)
    carry(settings, audit)


def carry(settings: Settings, audit: Audit) -> None:
    """Carry the trail to Redis at once, for a command that may run without the service. Raises MeterError."""

    async def ship(url: str) -> None:
        store = open_store(settings, url)
        try:
            await AuditShipper(audit.file, store.audit).ship()
        finally:
            await store.close()

    with store_url(settings) as url:
        asyncio.run(ship(url))


def as_json(found: Proof) -> bytes:
    """The same for machines."""
    return msgspec.json.encode({"fine": found.fine, "chains": found.chains, "faults": found.faults})


def show(found: Proof, *, heads_given: bool) -> None:
    """The table, every fault, and what the proof does not cover."""
    print_table(_HEADS, [_row(chain) for chain in found.chains], _WIDTH)
    print_lines(_lines(found, heads_given=heads_given), _WIDTH)


def _row(chain: ChainProof) -> tuple[str, ...]:
    owner, checked = "this data dir" if chain.here else "the stream only", "checked" if chain.checked else "-"
    numbers = (chain.number, chain.pending, chain.heads)
    return (chain.chain, *map(str, numbers), owner, checked, chain.mac[:16])


def _lines(found: Proof, *, heads_given: bool) -> list[str]:
    lines = [str(fault) for fault in found.faults[:SHOWN]]
    if len(found.faults) > SHOWN:
        lines.append(f"and {len(found.faults) - SHOWN} more; --format json has them all")
    if found.pending:
        lines.append(f"pending: {found.pending} not in Redis yet; a running service carries them, or verify --refill")
    if any(not chain.checked for chain in found.chains):
        lines.append("a chain without checked MACs was made with another secret: only its links were compared")
    if not heads_given:
        lines.append("without --heads FILE the newest entries could be cut off in both places and not be missed")
    return [*lines, "fine" if found.fine else "NOT fine"]


async def _prove(settings: Settings, url: str, file: AuditFile, heads: Sequence[Head], wait_s: float) -> Proof:
    store = open_store(settings, url)
    deadline = time.monotonic() + wait_s
    try:
        while True:
            # Redis before the files: what comes meanwhile is in the files then, and pending, instead of too much in Redis.
            stored, copies = await store.audit.heads(), await store.audit.everything()
            found = proof([file.read(chain) for chain in file.chains()], copies, stored, heads, file.key)
            if found.faults or not found.pending or time.monotonic() >= deadline:
                return found
            await asyncio.sleep(LOOK_EVERY_S)
    except OSError as error:
        raise MeterError(f"{file.folder}: {error}") from error
    finally:
        await store.close()


def _heads(name: str) -> list[Head]:
    """The heads of one log. Raises SettingsError for one that cannot be read, or has none."""
    try:
        lines = sys.stdin if name == "-" else Path(name).read_text("utf-8", "replace").splitlines()
        found = list(heads_in(lines))
    except OSError as error:
        raise SettingsError(f"--heads {name}: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingsError(f"--heads {name}: a line with audit_head is torn: {error}") from error
    if not found:
        raise SettingsError(f"--heads {name}: has no line with audit_head; is it the log of serve, at level info?")
    return found
