"""The published accuracy, held: exact where reported, within bounds where the report is withheld.

The table in docs/metering.md is made anew by running this file.
"""

import re
from pathlib import Path

import pytest
from metering.given import RECORDINGS

from benchmarks import accuracy

DOCS = Path(__file__).parents[2] / "docs/metering.md"
RESULTS = accuracy.results()


def test_there_are_recordings():
    """Says so where the folder with the recorded bodies is missing, because then the tests below are empty."""
    if not RECORDINGS.is_dir():
        pytest.skip(f"{RECORDINGS} is missing: the recorded bodies are kept outside the project")

    assert len(RESULTS) > 30


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.recording.name)
def test_every_kind_is_exact_where_it_was_reported(result):
    """In every cut; a completion that was reported undivided keeps its sum."""
    assert (result.differing, accuracy._off(result)) == (0, 0)


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.recording.name)
def test_an_estimate_is_within_its_bound_where_the_report_is_withheld(result):
    """DeepSeek's streams: text max(3, 1 %), calls max(25, 15 %); prompts without thinking max(12, 10 %)."""
    assert result.within(), (result.completion_off, result.prompt_off)


def test_the_bounds_can_be_missed():
    """A guess that is far off is told."""
    streamed = [result for result in RESULTS if result.bounded and result.estimated]
    if not streamed:
        pytest.skip("no recordings")
    wrong = streamed[0]._replace(estimated=accuracy.TokenUsage(0, 10_000, 0, 10_000))

    assert not wrong.within()


def with_table(text):
    """The docs with their table made anew."""
    rows = [accuracy.HEADS, ("---",) * len(accuracy.HEADS), *accuracy.table(RESULTS)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return re.sub(
        r"(<!-- accuracy: [^>]*-->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{table}\n\n{found[2]}",
        text,
        flags=re.DOTALL,
    )


def test_the_published_table_is_what_was_found():
    """Docs and recordings agree."""
    if not RESULTS:
        pytest.skip("no recordings")
    text = DOCS.read_text("utf-8")

    assert with_table(text) == text


if __name__ == "__main__":
    DOCS.write_text(with_table(DOCS.read_text("utf-8")), "utf-8")
