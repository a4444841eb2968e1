"""What was billed, exchange by exchange: the ground truth a meter can be held against. Pure: time comes in.

Every exchange with `/chat/completions` or `/completions` is entered once, when it ends, as one of

    completed   its last byte was written
    aborted     the client went away before that; billed are its prompt and the tokens produced so far
    broken      the simulator itself broke it off (or let it stall to the end); billed like an aborted one
    error       answered with a status of 400 or more; costs nothing

and billed at the prices of that moment. `Ledger.report()` is what `GET /_simulator/ledger` answers:

    {"exchanges": {"begun", "open", "completed", "aborted", "broken", "errors"},      how many
     "errors":    {"503": 2, …},                                                      by status
     "completed": [{"model", "served_model", "fingerprint", "band", "requests",
                    "tokens":        {"input_cache_hit", "input_cache_miss", "output_reasoning", "output_answer"},
                    "cost_nano_usd": {the same four}}],
     "aborted":   […], "broken": […],                                                 rows of the same form
     "balance":   "4999.998765432",                                                   USD, exactly
     "list":      […]}                                                                only with `?exchanges=1`

`model` is the name as requested. `band` is peak, off_peak or flat; it and `cost_nano_usd` are null where the model has
no price. Each exchange's cost per kind is rounded half-even to whole nano-USD, and every sum is the sum of these.
`list` holds the newest exchanges (at most 100,000), oldest first, each with

    id, trace_id, tag, model, served_model, fingerprint, band, outcome, status, api, streamed, start_s, end_s,
    tokens, cost_nano_usd

where `id` is the one in the body ("" for an error), `trace_id` that of the header `x-ds-trace-id`, `tag` what the
request said in `X-Simulator-Tag`, and `api` is chat or fim.
"""

from collections import Counter, deque
from enum import StrEnum
from typing import Any

import msgspec

from proxy.simulator.scenario import Balance, usd
from proxy.simulator.tariff import Bill, Cost, Tokens
from proxy.usage import KINDS, Api, Band

NANOS = 1_000_000_000
NEWEST = 100_000
"""How many exchanges are kept one by one: enough for a chaos test, some 60 MB."""


class Ending(StrEnum):
    """How an exchange ended, as the simulator saw it."""

    COMPLETED = "completed"
    ABORTED = "aborted"
    BROKEN = "broken"
    ERROR = "error"


BILLED = (Ending.COMPLETED, Ending.ABORTED, Ending.BROKEN)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One exchange that has ended. `tokens` are those it is billed for; an error has neither id nor tokens."""

    ending: Ending
    trace_id: str
    tag: str
    model: str
    api: Api
    streamed: bool
    status: int
    start_s: float
    end_s: float
    exchange_id: str = ""
    served: str = ""
    fingerprint: str = ""
    tokens: Tokens = Tokens()
    bill: Bill = Bill()


Group = tuple[str, str, str, Band | None]


class _Sums:
    """Running totals of one group: requests, tokens and nano-USD per kind."""

    def __init__(self) -> None:
        self.requests = 0
        self.tokens = [0, 0, 0, 0]
        self.cost: list[int] | None = None

    def __repr__(self) -> str:
        return f"_Sums({self.requests} requests, tokens {self.tokens}, cost {self.cost})"

    def add(self, tokens: Tokens, cost: Cost | None) -> None:
        """Takes one exchange in."""
        self.requests += 1
        self.tokens = [total + count for total, count in zip(self.tokens, _counts(tokens), strict=True)]
        if cost is not None:
            before = self.cost or [0, 0, 0, 0]
            self.cost = [total + nanos for total, nanos in zip(before, cost, strict=True)]


class Ledger:
    """All exchanges so far, and the money they took from the balance."""

    def __init__(self, balance: Balance, newest: int = NEWEST) -> None:
        self._granted = _nanos(balance.granted)
        self._topped_up = _nanos(balance.topped_up)
        self._spent = 0
        self._begun = 0
        self._endings: Counter[Ending] = Counter()
        self._statuses: Counter[int] = Counter()
        self._groups: dict[Ending, dict[Group, _Sums]] = {ending: {} for ending in BILLED}
        self._newest: deque[Entry] = deque(maxlen=newest)

    def __repr__(self) -> str:
        return f"Ledger({self._begun} begun, {dict(self._endings)}, {self._spent} nano-USD)"

    def begin(self) -> int:
        """Counts an exchange as begun and returns its number, from 0."""
        self._begun += 1
        return self._begun - 1

    def enter(self, entry: Entry) -> None:
        """Enters an exchange that was begun and has ended. Called once for each."""
        self._endings[entry.ending] += 1
        self._newest.append(entry)
        if entry.ending is Ending.ERROR:
            self._statuses[entry.status] += 1
            return
        group = (entry.model, entry.served, entry.fingerprint, entry.bill.band)
        self._groups[entry.ending].setdefault(group, _Sums()).add(entry.tokens, entry.bill.cost)
        self._spent += sum(entry.bill.cost or ())

    def balance(self) -> tuple[int, int]:
        """Nano-USD left of what was granted, which goes first, and of what was topped up, which may go below zero."""
        from_granted = min(self._spent, self._granted)
        return self._granted - from_granted, self._topped_up - (self._spent - from_granted)

    @property
    def empty(self) -> bool:
        """Whether nothing is left to spend."""
        return sum(self.balance()) <= 0

    def report(self, *, exchanges: bool) -> dict[str, Any]:
        """The ledger as JSON-ready values, see the module's head; `exchanges` adds the newest one by one."""
        report: dict[str, Any] = {
            "exchanges": self._totals(),
            "errors": {str(status): count for status, count in sorted(self._statuses.items())},
            **{ending.value: _rows(self._groups[ending]) for ending in BILLED},
            "balance": _usd_text(sum(self.balance())),
        }
        if exchanges:
            report["list"] = [_listed(entry) for entry in self._newest]
        return report

    def _totals(self) -> dict[str, int]:
        return {
            "begun": self._begun,
            "open": self._begun - self._endings.total(),
            **{ending.value: self._endings[ending] for ending in BILLED},
            "errors": self._endings[Ending.ERROR],
        }


def _rows(groups: dict[Group, _Sums]) -> list[dict[str, Any]]:
    """One row per group, in a stable order."""
    ordered = sorted(groups.items(), key=lambda item: tuple(part or "" for part in item[0]))
    return [
        {
            "model": model,
            "served_model": served,
            "fingerprint": fingerprint,
            "band": band,
            "requests": sums.requests,
            "tokens": _by_kind(sums.tokens),
            "cost_nano_usd": None if sums.cost is None else _by_kind(sums.cost),
        }
        for (model, served, fingerprint, band), sums in ordered
    ]


def _listed(entry: Entry) -> dict[str, Any]:
    cost = entry.bill.cost
    return {
        "id": entry.exchange_id,
        "trace_id": entry.trace_id,
        "tag": entry.tag,
        "model": entry.model,
        "served_model": entry.served,
        "fingerprint": entry.fingerprint,
        "band": entry.bill.band,
        "outcome": entry.ending,
        "status": entry.status,
        "api": entry.api,
        "streamed": entry.streamed,
        "start_s": entry.start_s,
        "end_s": entry.end_s,
        "tokens": _by_kind(_counts(entry.tokens)),
        "cost_nano_usd": None if cost is None else _by_kind(cost),
    }


def _counts(tokens: Tokens) -> tuple[int, int, int, int]:
    return (tokens.hit, tokens.miss, tokens.reasoning, tokens.answer)


def _by_kind(values: list[int] | tuple[int, ...]) -> dict[str, int]:
    return {kind.value: value for kind, value in zip(KINDS, values, strict=True)}


def _nanos(text: str) -> int:
    return round(usd(text) * NANOS)


def _usd_text(nanos: int) -> str:
    """Nano-USD as an exact decimal string of USD with nine decimals."""
    whole, rest = divmod(abs(nanos), NANOS)
    return f"{'-' if nanos < 0 else ''}{whole}.{rest:09d}"
