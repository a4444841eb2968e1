"""Snapshots and reports, made of what one wants to show."""

from ledger.given import NOW_S

from proxy.child import OVERHEAD_BUCKETS_S, WorkerReport
from proxy.ledger.answers import Snapshot


def snapshot(totals=(), *, seen_s=None, taken_s=NOW_S, sightings=None, spend=()):
    """A snapshot of these totals. `seen_s` is since when each has been there; by default for long."""
    fields = {field.encode(): str(value).encode() for field, value in dict(totals).items()}
    since = dict.fromkeys(fields, NOW_S - 1000 if seen_s is None else seen_s)
    return Snapshot(
        taken_s,
        7,
        fields,
        {field: str(round(at * 1000)).encode() for field, at in since.items()},
        sightings or {},
        tuple(spend),
    )


def report(slot=0, life="a", *, buckets=(), sum_s=0.0, **changes):
    """What a worker says of itself; `buckets` are the first counts of its overhead."""
    counts = [*buckets, *[0] * (len(OVERHEAD_BUCKETS_S) + 1 - len(buckets))]
    fields = {
        "slot": slot,
        "life": life,
        "pid": 1,
        "in_flight": 2,
        "pending_records": 3,
        "oldest_pending_s": 0.5,
        "journal_writable": True,
        "faults": {"feed": 4},
        "overhead_buckets": counts,
        "overhead_sum_s": sum_s,
    }
    return WorkerReport(**{**fields, **changes})
