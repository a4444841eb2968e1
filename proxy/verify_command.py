"""`verify`: finds the store of an installation that runs or does not, compares, and says what it found."""

import asyncio
import time
from typing import Final

import msgspec
from rich.console import Console as Terminal
from rich.table import Table

from proxy.catalog_files import catalog_with
from proxy.child import journals_dir
from proxy.errors import MeterError
from proxy.gateway_process import open_store, retention_of
from proxy.installation import store_url
from proxy.ledger.verify import Findings, JournalFinding, Refilled, refill, verify
from proxy.settings import Settings
from proxy.upstreams import naming

LOOK_EVERY_S: Final = 0.5


def compare(settings: Settings, *, refilling: bool, wait_s: float) -> tuple[Findings, list[Refilled]]:
    """What was found, and what was sent again. Pending records are given `wait_s` to arrive. Raises MeterError."""
    journals = journals_dir(settings)
    if not journals.is_dir():
        raise MeterError(f"[store] data_dir {settings.store.data_dir}: there are no journals; is it the right one?")
    with store_url(settings) as url:
        refilled = asyncio.run(_refill(settings, url)) if refilling else []
        return asyncio.run(_verify(settings, url, wait_s)), refilled


def as_json(findings: Findings, refilled: list[Refilled]) -> bytes:
    """The same for machines."""
    return msgspec.json.encode(
        {
            "fine": findings.fine,
            "journals": findings.journals,
            "totals_off": findings.totals_off,
            "refilled": refilled,
        }
    )


async def _refill(settings: Settings, url: str) -> list[Refilled]:
    store = open_store(settings, url)
    catalog = catalog_with(settings.pricing.catalog_file)
    try:
        return await refill(store, journals_dir(settings), retention_of(settings), naming(settings, lambda: catalog))
    finally:
        await store.close()


async def _verify(settings: Settings, url: str, wait_s: float) -> Findings:
    store = open_store(settings, url)
    deadline = time.monotonic() + wait_s
    try:
        findings = first_look = await verify(store, journals_dir(settings))
        while not findings.fine and time.monotonic() < deadline:
            await asyncio.sleep(LOOK_EVERY_S)
            findings = await verify(store, journals_dir(settings), first_look)
        return findings
    finally:
        await store.close()


def show(findings: Findings, refilled: list[Refilled]) -> None:
    """The table and what else there is to say."""
    table = Table("journal", "last", "applied", "pending", "what is wrong", box=None)
    for journal in findings.journals:
        numbers = (journal.last, journal.applied, journal.pending)
        table.add_row(journal.journal, *map(str, numbers), _wrong(journal))
    terminal = Terminal(width=160)
    terminal.print(table)
    for one in refilled:
        terminal.print(f"{one.journal}: {one.first} to {one.last} sent again", highlight=False)
    for name, difference in findings.totals_off.items():
        terminal.print(f"totals: {name} differ by {difference:+,} from the sum over all journals", highlight=False)
    terminal.print("fine" if findings.fine else "NOT fine", highlight=False)


def _wrong(journal: JournalFinding) -> str:
    words = [f"{'double' if value > 0 else 'missing'}: {name} {value:+,}" for name, value in journal.off.items()]
    if journal.forgotten:
        words.append(f"forgotten by the store, to be sent again: {journal.forgotten}")
    if journal.damaged:
        words.append(journal.damaged)
    if not words and not journal.checked:
        return "- (its beginning is not kept any more: sums not compared)"
    return "; ".join(words) or "-"
