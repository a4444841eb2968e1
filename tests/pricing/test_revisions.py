"""Revisions: what a number means, which records can have one, and what an expectation of one is worth."""

import msgspec
import pytest
from ledger.given import record

from proxy.pricing.revisions import Place, base_of, is_tag, place_of, settled, tag
from proxy.usage import How

V = "DeepSeek-V4.1-Flash-1017"


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, V), (1, V), (2, f"{V}+r2"), (20, f"{V}+r20"), (21, f"{V}+other"), (500, f"{V}+other")],
)
def test_the_tag_of_a_number(number, name):
    """The first fingerprint is the version itself; beyond twenty nothing is told apart."""
    assert tag(V, number) == name
    assert base_of(name) == V
    assert is_tag(name)


@pytest.mark.parametrize(
    "text", ["", "+r2", f"{V}+", f"{V}+r", f"{V}+r0", f"{V}+r21", f"{V}+r02", f"{V}+r2+r3", f"{V}+x"]
)
def test_what_is_no_tag(text):
    """A client may expect anything; only what has the form of a tag becomes a label."""
    assert not is_tag(text)


@pytest.mark.parametrize("how", How)
def test_only_versions_of_the_catalog_have_revisions(how):
    """A served name as it stands is what a name means, no more."""
    place = place_of(record(how=how, fingerprint="fp_0123456789_prod0425fp8"))

    expected = {How.SERVED_NAME: Place("V", "default", "m", ""), How.REQUESTED_NAME: None, How.UNKNOWN: None}
    assert place == expected.get(how, Place("V", "default", "m", "fp_0123456789"))


def test_an_error_is_no_answer():
    """The alias tells a version for a refused request, too; nothing answered there that could have changed."""
    assert place_of(record(served_model="")) is None


@pytest.mark.parametrize(
    ("expected", "number", "missed"),
    [
        ("", 2, ""),
        ("V", 2, ""),
        ("V+r2", 2, ""),
        ("V+r2", 1, "V+r2"),
        ("V+r2", 3, "V+r2"),
        ("V+r2", 0, ""),  # an answer without a fingerprint: not told, not counted
        ("V+r1", 1, ""),
        ("V+r1", 2, "V+r1"),
        ("V+other", 21, ""),
        ("V+r77", 2, ""),
        ("W+r2", 3, ""),  # another version was counted when the record was made
    ],
)
def test_an_expected_revision(expected, number, missed):
    """Without a revision any will do; with one, exactly that."""
    assert settled(record(expected_version=expected), number).version_mismatch == missed


def test_a_mismatch_of_versions_stays():
    """What was found when the record was made is not judged again."""
    one = record(expected_version="W", version_mismatch="W")

    assert settled(one, 2) == msgspec.structs.replace(one, version="V+r2")


def test_a_record_of_the_version_itself_is_not_copied():
    """Most are: nothing is made anew for them."""
    one = record()

    assert settled(one, 1) is one
    assert settled(one, 0) is one
