"""The newest entries of the audit trail as `/api/audit` shows them. Pure: copies in, a document out."""

from collections.abc import Iterable
from typing import Any

from proxy.console.versions import iso
from proxy.ledger.audit import decoded
from proxy.ledger.audit_stream import Copy


def audit_json(copies: Iterable[Copy]) -> dict[str, Any]:
    """The entries in the order given. It shows, and proves nothing: that is `verify --audit`, which has the secret."""
    return {"entries": [_entry(copy) for copy in copies]}


def _entry(copy: Copy) -> dict[str, Any]:
    entry = decoded(copy.entry)
    if entry is None:
        return {"chain": copy.chain, "number": copy.number, "damaged": True}
    return {
        "chain": entry.chain,
        "number": entry.number,
        "at": iso(entry.at_ms / 1000),
        "who": entry.who,
        "action": entry.action,
        "subject": entry.subject,
        "detail": entry.detail,
        "mac": entry.mac,
    }
