"""Shows the figures: one table for people, one JSON document for machines."""

import json
import os
import platform
from typing import Any, Final

from rich.console import Console as Terminal
from rich.table import Table

from benchmarks.figures import Rounds, Span, Verdict, ratio, span_of
from benchmarks.rounds import TURNS, Plan
from benchmarks.wire import CHUNK_EVERY_S

ROWS: Final = (
    ("requests_per_s", "requests/s", "{:,.0f}"),
    ("busy", "  on its core, %", "{:.0f}"),
    ("waited", "  waiting for its core, %", "{:.1f}"),
    ("cpu_us_per_request", "  CPU per request, µs", "{:.1f}"),
    ("cpu_us_per_chunk", "CPU per chunk, µs", "{:.1f}"),
    ("stream_busy", "  on its core, %", "{:.0f}"),
    ("stream_waited", "  waiting for its core, %", "{:.1f}"),
    ("chunks_per_s", "  chunks/s (paced)", "{:,.0f}"),
    ("chunks", "  chunks in a round", "{:,.0f}"),
    ("chunks_per_read", "  chunks per read of the client", "{:.2f}"),
    ("chunk_delay_p50_us", "chunk delay p50, µs", "{:,.0f}"),
    ("chunk_delay_p99_us", "chunk delay p99, µs", "{:,.0f}"),
    ("first_chunk_p50_us", "time to first chunk p50, µs", "{:,.0f}"),
    ("resident_mib", "memory (RSS), MiB", "{:.1f}"),
)
"""Figure, its name, its format."""

TARGETS: Final = ("direct", "bare relay", "proxy")
_NO_RATIO: Final = frozenset(
    {"chunks", "chunks_per_s", "chunks_per_read", "busy", "stream_busy", "waited", "stream_waited"}
)


def table(rounds: Rounds, plan: Plan) -> Table:
    """All figures of all targets: median (lowest - highest) of the rounds."""
    title = (
        f"{plan.rounds} rounds of {plan.seconds:g} s; {plan.connections} connections; "
        f"{plan.streams} streams of {plan.tokens} chunks, one each {CHUNK_EVERY_S * 1e3:.0f} ms, {TURNS} in a row"
    )
    shown = Table("", *TARGETS, "proxy / bare relay", title=title, title_justify="left")
    for figure, name, form in ROWS:
        cells = (_cell(span_of(rounds, target, figure), form) for target in TARGETS)
        compared = "" if figure in _NO_RATIO else _cell(ratio(rounds, figure), "{:.2f}")
        shown.add_row(name, *cells, compared)
    return shown


def show(rounds: Rounds, plan: Plan, verdicts: list[Verdict], terminal: Terminal | None = None) -> None:
    """The table and, below it, whether each goal is met."""
    terminal = terminal or Terminal(width=None if os.isatty(1) else 130)
    terminal.print(table(rounds, plan))
    for verdict in verdicts:
        word = "met" if verdict.met else "MISSED"
        terminal.print(f"{word}: {verdict.text}; measured {_cell(verdict.ratio, '{:.2f}')}", highlight=False)


def document(rounds: Rounds, plan: Plan, verdicts: list[Verdict]) -> str:
    """The same for machines, every round by itself."""
    found: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()},
        "plan": plan._asdict() | {"tokens": plan.tokens},
        "rounds": {target: [dict(sample) for sample in samples] for target, samples in rounds.items()},
        "goals": [verdict._asdict() | {"ratio": verdict.ratio._asdict()} for verdict in verdicts],
    }
    return json.dumps(found, indent=1)


def _cell(span: Span | None, form: str) -> str:
    if span is None:
        return "-"
    middle, low, high = (form.format(value) for value in span)
    return middle if low == high else f"{middle} ({low} - {high})"
