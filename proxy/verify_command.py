"""`verify`: finds the store of an installation that runs or does not, compares, and says what it found."""

import asyncio
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from proxy.catalog_files import catalog_with
from proxy.child import journals_dir
from proxy.command_options import print_lines, print_table
from proxy.errors import MeterError
from proxy.gateway_process import open_store, retention_of
from proxy.installation import store_url
from proxy.ledger.verify import Findings, JournalFinding, Refilled, refill, verify
from proxy.settings import Settings
from proxy.upstreams import naming

LOOK_EVERY_S: Final = 0.5
_WIDTH: Final = 160


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
    heads = ("journal", "last", "applied", "pending", "what is wrong")
    rows = [(one.journal, *map(str, (one.last, one.applied, one.pending)), _wrong(one)) for one in findings.journals]
    print_table(heads, rows, _WIDTH)
    print_lines(_lines(findings, refilled), _WIDTH)


def _lines(findings: Findings, refilled: list[Refilled]) -> Iterator[str]:
    yield from (f"{one.journal}: {one.first} to {one.last} sent again" for one in refilled)
    for name, difference in findings.totals_off.items():
        yield f"totals: {name} differ by {difference:+,} from the sum over all journals"
    yield "fine" if findings.fine else "NOT fine"


def _wrong(journal: JournalFinding) -> str:
    words = [f"{'double' if value > 0 else 'missing'}: {name} {value:+,}" for name, value in journal.off.items()]
    if journal.forgotten:
        words.append(f"forgotten by the store, to be sent again: {journal.forgotten}")
    if journal.damaged:
        words.append(journal.damaged)
    if not words and not journal.checked:
        return "- (its beginning is not kept any more: sums not compared)"
    return "; ".join(words) or "-"
