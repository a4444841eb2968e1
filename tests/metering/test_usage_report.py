import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metering.faults import MeteringFaultError
from proxy.metering.usage_report import MAX_TOKENS, read_chat_usage
from proxy.usage import Missing, Rule, TokenUsage


def usage(prompt=75, completion=10, *, total=None, hit=64, miss=11, reasoning=4):
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion if total is None else total,
        "prompt_cache_hit_tokens": hit,
        "prompt_cache_miss_tokens": miss,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def read(fields):
    return read_chat_usage(json.dumps(fields).encode())


@pytest.mark.parametrize(
    ("fields", "kinds"),
    [
        (usage(), (64, 11, 4, 6)),
        ({"prompt_tokens": 7, "completion_tokens": 2}, (0, 7, 0, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 0}, (0, 0, 0, 0)),
        ({"prompt_tokens": 75, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 64}}, (64, 11, 0, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": None}, (0, 7, 0, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": None}}, (0, 7, 0, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "completion_tokens_details": None}, (0, 7, 0, 2)),
        ({"prompt_tokens": 75, "completion_tokens": 2, "prompt_cache_hit_tokens": 64}, (64, 11, 0, 2)),
        ({"prompt_tokens": 7, "completion_tokens": 2, "cost": 2.04e-05, "total_tokens": None}, (0, 7, 0, 2)),
        (usage(reasoning=10), (64, 11, 10, 0)),
    ],
)
def test_the_four_kinds_of_a_report(fields, kinds):
    """Hosts differ in what they split; what is there is taken, what is not is derived, and nothing is broken."""
    report = read(fields)

    assert TokenUsage(*kinds) == report.usage
    assert (report.violations, report.literal) == ((), "")


@pytest.mark.parametrize(
    ("fields", "violations", "kinds"),
    [
        (usage(miss=12), (Rule.PROMPT_SUM,), (64, 12, 4, 6)),
        (usage(total=84), (Rule.TOTAL_SUM,), (64, 11, 4, 6)),
        (usage(reasoning=11), (Rule.REASONING_WITHIN_COMPLETION,), (64, 11, 10, 0)),
        (usage(hit=-1, miss=76), (Rule.NOT_NEGATIVE,), (0, 76, 4, 6)),
        (usage(completion=-1, reasoning=-2), (Rule.NOT_NEGATIVE,), (64, 11, 0, 0)),
        (usage(reasoning=-1), (Rule.NOT_NEGATIVE,), (64, 11, 0, 10)),
        (usage(total=-1), (Rule.TOTAL_SUM, Rule.NOT_NEGATIVE), (64, 11, 4, 6)),
        (
            usage(prompt=1, completion=2, total=9, hit=5, miss=6, reasoning=7),
            (Rule.PROMPT_SUM, Rule.REASONING_WITHIN_COMPLETION, Rule.TOTAL_SUM),
            (5, 6, 2, 0),
        ),
        (
            {"prompt_tokens": 5, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 6}},
            (Rule.NOT_NEGATIVE,),
            (6, 0, 0, 1),
        ),
    ],
)
def test_a_broken_rule_is_named_and_the_numbers_stay(fields, violations, kinds):
    """A report that does not add up is kept as it is, literally too; only negative counts cannot stand."""
    report = read(fields)

    assert violations == report.violations
    assert TokenUsage(*kinds) == report.usage
    assert fields == json.loads(report.literal)


@pytest.mark.parametrize("wrong", ["5", 5.5, 1e300, True, None, [5], {}, MAX_TOKENS + 1, 10**30])
@pytest.mark.parametrize("name", ["prompt_tokens", "completion_tokens"])
def test_a_count_that_is_none_breaks_the_usage(name, wrong):
    """Strings, fractions, truth values and numbers without measure are no counts; nothing is guessed from them."""
    assert broken(json.dumps({"prompt_tokens": 5, "completion_tokens": 5, name: wrong}).encode())


@pytest.mark.parametrize("count", [5.0, 5])
def test_a_number_without_a_fraction_is_a_count(count):
    """JSON knows one kind of number."""
    assert read({"prompt_tokens": count, "completion_tokens": 0}).usage.prompt == 5


@pytest.mark.parametrize(
    "side", [{"prompt_tokens_details": []}, {"completion_tokens_details": ""}, {"prompt_tokens_details": {"x": {}}}]
)
def test_details_that_are_no_object_say_nothing(side):
    """Some languages write an empty object as a list."""
    assert read({"prompt_tokens": 7, "completion_tokens": 2, **side}).violations == ()


@pytest.mark.parametrize(
    "side",
    [
        {"total_tokens": "9"},
        {"prompt_tokens_details": {"cached_tokens": "5"}},
        {"reasoning_tokens": 1.5},
        {"prompt_cache_hit_tokens": True},
    ],
)
def test_a_side_field_that_is_no_count_is_named_and_the_totals_stand(side):
    """The exchange stays reported; which number could not be read stands in the record."""
    report = read({"prompt_tokens": 7, "completion_tokens": 2, **side})

    assert (report.usage, report.violations) == (TokenUsage(0, 7, 0, 2), (Rule.UNREADABLE_FIELD,))
    assert json.loads(report.literal)["prompt_tokens"] == 7


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"5",
        b'"usage"',
        b"{}",
        b'{"prompt_tokens":5}',
        b'{"completion_tokens":5}',
        b"\xff",
        b'{"a":NaN}',
    ],
)
def test_what_is_no_usage_is_broken(raw):
    """Absent is not zero: without a prompt and a completion count there is no usage."""
    assert broken(raw)


def test_the_largest_count_is_read():
    """At the cap itself a count still is one."""
    assert read({"prompt_tokens": MAX_TOKENS, "completion_tokens": 0}).usage.prompt == MAX_TOKENS


counts = st.one_of(st.none(), st.integers(-5, 200), st.integers(-(10**30), MAX_TOKENS))


@given(
    prompt=st.integers(-(10**30), MAX_TOKENS),
    completion=st.integers(-5, MAX_TOKENS),
    hit=counts,
    miss=counts,
    reasoning=counts,
)
def test_every_report_gives_counts_that_can_be_added(prompt, completion, hit, miss, reasoning):
    """Whatever was reported, the four counts are neither negative nor beyond what a counter can take."""
    fields = usage(prompt, completion, hit=hit, miss=miss, reasoning=reasoning)
    try:
        report = read(fields)
    except MeteringFaultError:
        return

    assert all(0 <= count <= 2 * MAX_TOKENS for _, count in report.usage.by_kind())


def broken(raw):
    with pytest.raises(MeteringFaultError) as raised:
        read_chat_usage(raw)
    return raised.value.missing is Missing.BROKEN_USAGE
