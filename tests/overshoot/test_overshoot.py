"""The short form of `make overshoot`: sixteen clients at once against a small budget, also with Redis killed in the middle."""

import pytest

from overshoot.__main__ import broken, line
from overshoot.run import Plan, Result, run

SHORT = Plan("worst_case", 16, "refuse", means=250, replicas=1, patience=2)


def test_a_budget_is_used_up_and_not_overshot_and_nothing_leaks(tmp_path):
    """Of the worst case never a nano-dollar too much, and no refusal that the numbers in it do not bear out."""
    result = run(tmp_path, SHORT)

    assert broken(result) == "", line(result)
    assert result.refused > 0
    assert result.answered > SHORT.means / 3  # by then Redis was killed


def test_what_is_likely_is_hardly_overshot_either(tmp_path):
    """Clients are patient: what an exchange held too much is given back when its record is shipped, every second or so."""
    result = run(tmp_path, Plan("likely", 16, means=250, replicas=1, patience=5))

    assert broken(result) == "", line(result)
    assert result.overshoot > -0.1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"spent_nanos": 1001, "billed_nanos": 1001}, "overshot by 0.10%"),
        ({"leaked_holds": 1}, "leaked"),
        ({"leaked_nanos": 1}, "leaked"),
        ({"phantom": 1}, "refusals that were none"),
        ({"billed_nanos": 901}, "spent 900, billed 901"),
    ],
)
def test_the_figures_can_say_no(changes, said):
    found = {
        "limit_nanos": 1000,
        "spent_nanos": 900,
        "billed_nanos": 900,
        "answered": 9,
        "refused": 1,
        "unavailable": 0,
    }
    found |= {"phantom": 0, "leaked_nanos": 0, "leaked_holds": 0}

    assert broken(Result(Plan("worst_case", 1), **found)) == ""
    assert said in broken(Result(Plan("worst_case", 1), **{**found, **changes}))
