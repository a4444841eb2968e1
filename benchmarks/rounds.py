"""Measures rounds: the targets take turns, in an order that changes from round to round, first warmed up, then measured.

CPU is that of the relaying process, from before the first request until it is idle again: what the proxy puts off, folding
and shipping its journal, is in it.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, NamedTuple

import uvloop

from benchmarks.figures import Sample, percentile
from benchmarks.load import Seen, run_requests, run_streams
from benchmarks.processes import Target, settle
from benchmarks.usage_of import Usage, resident_mib, usage
from benchmarks.wire import CHUNK_EVERY_S

STREAMS: Final = 64
MOST_TOKENS: Final = 200
TURNS: Final = 2
WARM_UP_S: Final = 1.0


class Plan(NamedTuple):
    """How long, how often, how many at once."""

    seconds: float
    rounds: int
    connections: int
    streams: int = STREAMS

    @property
    def tokens(self) -> int:
        """Length of a stream: a round holds its turns and the time in which they begin one after the other."""
        return min(max(int(self.seconds / CHUNK_EVERY_S / (TURNS + 0.5)), 3), MOST_TOKENS)


class Run(NamedTuple):
    """What the clients saw, and what it cost the relaying process: while they ran, and with what it had put off."""

    seen: Seen
    meanwhile: Usage
    in_all: Usage


def measure(targets: Sequence[Target], plan: Plan, note: Callable[[str], None]) -> tuple[dict[str, list[Sample]], int]:
    """All rounds of all targets; and how many exchanges the last target, the proxy, had, warming up included."""
    rounds: dict[str, list[Sample]] = {target.name: [] for target in targets}
    warm_up = [_round(target, plan._replace(seconds=min(plan.seconds, WARM_UP_S))) for target in targets]
    for number, order in enumerate(_orders(targets, plan.rounds), 1):
        note(f"round {number} of {plan.rounds}: {', '.join(target.name for target in order)}")
        for target in order:
            rounds[target.name].append(_round(target, plan))
    return rounds, _exchanges([warm_up[-1], *rounds[targets[-1].name]])


def _exchanges(samples: Sequence[Sample]) -> int:
    return int(sum(sample["answers"] + sample["streams"] for sample in samples))


def _orders(targets: Sequence[Target], rounds: int) -> Iterator[Sequence[Target]]:
    """Forwards and backwards in turn, so that nobody always comes behind the same other."""
    for number in range(rounds):
        yield targets if number % 2 == 0 else targets[::-1]


def _round(target: Target, plan: Plan) -> dict[str, float]:
    requests = _run(target, lambda: run_requests(target.address, plan.connections, plan.seconds))
    streams = _run(target, lambda: run_streams(target.address, plan.streams, plan.tokens, TURNS))
    found = _of_requests(requests) | _of_streams(streams)
    if target.pid:
        found |= _of_process(requests, streams) | {"resident_mib": resident_mib(target.pid)}
    return found


def _run(target: Target, load: Callable[[], Awaitable[Seen]]) -> Run:
    settle(target)
    before = usage(target.pid)
    seen = uvloop.run(load())
    meanwhile = usage(target.pid) - before
    settle(target)
    return Run(seen, meanwhile, usage(target.pid) - before)


def _of_requests(run: Run) -> dict[str, float]:
    return {"answers": run.seen.answers, "requests_per_s": run.seen.answers / run.seen.seconds}


def _of_streams(run: Run) -> dict[str, float]:
    seen = run.seen
    return {
        "streams": seen.answers,
        "chunks": len(seen.delays_ns),
        "chunks_per_s": len(seen.delays_ns) / seen.seconds,
        "chunks_per_read": len(seen.delays_ns) / seen.reads,
        "chunk_delay_p50_us": percentile(seen.delays_ns, 0.5) / 1e3,
        "chunk_delay_p99_us": percentile(seen.delays_ns, 0.99) / 1e3,
        "first_chunk_p50_us": percentile(seen.first_chunk_ns, 0.5) / 1e3,
    }


def _of_process(requests: Run, streams: Run) -> dict[str, float]:
    return {
        "busy": requests.meanwhile.cpu_s / requests.seen.seconds * 100,
        "waited": requests.meanwhile.waited_s / requests.seen.seconds * 100,
        "cpu_us_per_request": requests.in_all.cpu_s / requests.seen.answers * 1e6,
        "stream_busy": streams.meanwhile.cpu_s / streams.seen.seconds * 100,
        "stream_waited": streams.meanwhile.waited_s / streams.seen.seconds * 100,
        "cpu_us_per_chunk": streams.in_all.cpu_s / len(streams.seen.delays_ns) * 1e6,
    }
