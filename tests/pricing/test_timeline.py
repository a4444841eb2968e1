from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.pricing.timeline import OPEN_END, Span, timeline

cuts = st.lists(st.integers(0, 1000), min_size=2, max_size=12, unique=True).map(sorted)


@given(cuts=cuts, holes=st.sets(st.integers(0, 12)), at_s=st.integers(-5, 1005))
def test_finds_the_one_span_that_holds(cuts, holes, at_s):
    """At every instant the look-up says what reading down the spans says, in gaps too."""
    spans = [Span(a, b, index) for index, (a, b) in enumerate(pairwise(cuts)) if index not in holes]
    found = [span.value for span in spans if span.from_s <= at_s < span.to_s]

    assert ([*found, None])[0] == timeline(reversed(spans)).at(at_s)
    assert len(found) <= 1


def test_a_span_ends_before_its_last_second():
    """Of two neighbours exactly one holds at the instant of the change, also within a fraction of a second."""
    line = timeline([Span(10, 20, "early"), Span(20, OPEN_END, "late")])

    assert [line.at(second) for second in (10, 19.999, 20, 1e12)] == ["early", "early", "late", "late"]
    assert line.at(9.999) is None


def test_an_overlap_names_both_rows():
    """Two spans that hold at once are refused with the place of each."""
    with pytest.raises(ValueError, match="second row: overlaps with first row"):
        timeline([Span(5, 15, "b", "second row"), Span(0, 6, "a", "first row")])
