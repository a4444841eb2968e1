import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger.given import record

from proxy.usage import CURRENCIES, KINDS, LABEL_CHARACTERS, Band, Charge, TokenUsage, UsageRecord, clean_label

counts = st.integers(0, 10**12)


@given(usage=st.builds(TokenUsage, counts, counts, counts, counts))
def test_the_kinds_are_disjoint(usage):
    """Cached and not cached make the prompt, reasoning and answer the completion, all four the total."""
    hit, miss, reasoning, answer = (count for _, count in usage.by_kind())

    assert tuple(kind for kind, _ in usage.by_kind()) == KINDS
    assert (hit + miss, reasoning + answer) == (usage.prompt, usage.completion)
    assert sum(count for _, count in usage.by_kind()) == usage.total == usage.prompt + usage.completion


def test_a_charge_is_the_sum_of_its_parts():
    """Nano-units per kind, rounded once, added up exactly."""
    assert Charge("USD", "p", Band.FLAT, (10**17 + 1, 2, 3, 4)).total_nanos == 10**17 + 10


def test_a_record_reads_back_as_it_was_written():
    """What goes into the journal comes out of it, charges and all."""
    one = record(7, violations=(), reported_usage="", model='quo"te\n🚢')
    encoded = msgspec.json.encode(one)

    assert one == msgspec.json.decode(encoded, type=UsageRecord)
    assert b"\n" not in encoded


@pytest.mark.parametrize("name", ["outcome", "app"])
def test_a_fact_cannot_be_changed(name):
    """Records, usages and charges are frozen."""
    with pytest.raises(AttributeError):
        setattr(record(1), name, "other")


def test_the_names_on_the_surface():
    """Kinds and currencies are labels of metrics: a change of them is a change of the surface."""
    assert [kind.value for kind in KINDS] == [
        "input_cache_hit",
        "input_cache_miss",
        "output_reasoning",
        "output_answer",
    ]
    assert CURRENCIES == ("USD", "CNY")


@given(text=st.text(st.characters(codec=None, exclude_categories=()), max_size=200))
def test_any_text_can_be_made_a_label(text):
    """Printable, at most 128 characters, fit for UTF-8, and the same when cleaned again."""
    label = clean_label(text)

    assert label.isprintable()
    assert len(label) <= LABEL_CHARACTERS
    assert label == clean_label(label) == label.encode().decode()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("deepseek-flash", "deepseek-flash"),
        ("", ""),
        ("a\nb\x00", "a?b?"),
        ("é 船", "é 船"),
        ("\udcff", "?"),
        ("x" * 129, "x" * 128),
    ],
)
def test_what_a_label_becomes(text, label):
    """A name that can be shown stays; what cannot be is replaced or cut, never refused."""
    assert label == clean_label(text)
