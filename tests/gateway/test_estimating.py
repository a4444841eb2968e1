import asyncio
import json

import pytest
import structlog
from gateway.test_recording import PRICING, facts
from metering.counting import Words

from proxy.gateway.counting import Counting
from proxy.gateway.estimating import NAME_AGAIN_AFTER_S, Estimator, Sent
from proxy.gateway.recording import Need, make_record, need_of
from proxy.metering.calibration import ENOUGH
from proxy.metering.reading import Reading
from proxy.metering.usage_report import UsageReport
from proxy.usage import Api, Missing, Outcome, Source, TokenUsage

BODY = json.dumps(
    {"model": "a", "messages": [{"role": "user", "content": "one two three"}], "thinking": {"type": "disabled"}}
)
PROMPT = 3 + 1 + 1 + 2  # words, start, role, generation


def estimator(*, load=Words, deepseek=True, sample=1.0, chance=0.5, asks=False, longest_s=5.0, quiet=True):
    faults = []
    made = Estimator(
        Counting(load, longest_s),
        lambda: PRICING,
        deepseek_habits=deepseek,
        asks_for_usage=asks,
        sample=sample,
        chance=lambda: chance,
        is_quiet=lambda: quiet,
        monotonic_s=lambda: 0.0,
        fault=lambda stage, error: faults.append((stage, type(error).__name__)),
    )
    return made, faults


def streamed(*, answer=("a b", " c"), reasoning=(), report=None, reported=True):
    seen = Reading()
    seen.streamed = seen.ended = True
    for piece in answer:
        seen.answer_deltas += 1
        seen.answer.add(piece)
    for piece in reasoning:
        seen.reasoning_deltas += 1
        seen.reasoning.add(piece)
    seen.report = report and UsageReport(report, reasoning_reported=reported)
    return seen


def work_out(made, seen, given=None, body=BODY):
    given = given or facts()
    return asyncio.run(made.work_out(need_of(given, seen), given, seen, Sent(body.encode())))


@pytest.mark.parametrize(("deepseek", "completion"), [(True, 2), (False, 3)])
def test_an_exchange_without_usage_is_estimated(deepseek, completion):
    """By deltas at DeepSeek, by the tokenizer elsewhere; the prompt by its words."""
    made, faults = estimator(deepseek=deepseek)
    seen = streamed()

    assert need_of(facts(), seen) is Need.ESTIMATE
    assert work_out(made, seen) == TokenUsage(0, PROMPT, 0, completion)
    assert faults == []


def test_a_completion_without_its_reasoning_is_divided_and_the_record_says_so():
    """The sum is the host's, the division ours."""
    made, _ = estimator()
    seen = streamed(reasoning=("r s t",), report=TokenUsage(2, 5, 0, 9), reported=False)
    usage = work_out(made, seen)
    record = make_record(facts(), seen, usage, pricing=PRICING)

    assert (record.usage, record.source, record.reasoning_counted) == (TokenUsage(2, 5, 3, 6), Source.REPORTED, True)
    assert make_record(facts(), seen, None, pricing=PRICING).reasoning_counted is False


@pytest.mark.parametrize(
    ("given", "seen", "need"),
    [
        (facts(), streamed(report=TokenUsage(0, 1, 0, 1)), Need.NOTHING),
        (facts(Outcome.REFUSED, 413, answered=False, sent=False), None, Need.NOTHING),
        (facts(Outcome.UPSTREAM_ERROR, 400), Reading(), Need.NOTHING),
        (facts(api=Api.MODELS), None, Need.NOTHING),
        (facts(Outcome.CLIENT_DISCONNECTED, 0, answered=False), None, Need.ESTIMATE),
        (facts(Outcome.UPSTREAM_DISCONNECTED), streamed(), Need.ESTIMATE),
    ],
)
def test_what_has_to_be_counted(given, seen, need):
    """Nothing for what was reported, refused, failed or free."""
    assert need_of(given, seen) is need


def no_vocabulary():
    raise ValueError("no vocabulary")


@pytest.mark.parametrize(
    "seen", [streamed(), streamed(reasoning=("r",), report=TokenUsage(0, 5, 0, 9), reported=False)]
)
def test_without_a_tokenizer_sizes_and_deltas_have_to_do(seen):
    """The fault is counted; an estimate goes by size, a division is left out."""
    made, faults = estimator(load=no_vocabulary)
    usage = work_out(made, seen)

    assert usage == (None if seen.report else TokenUsage(0, 30, 0, 2))
    assert faults == [("count", "ValueError")]


def test_a_sample_teaches_the_next_estimate():
    """Reported exchanges are estimated as well; what they differ by is published and applied."""
    made, _ = estimator()
    seen = streamed(report=TokenUsage(0, PROMPT + 40, 0, 2))
    for _ in range(ENOUGH):
        record = make_record(facts(), seen, pricing=PRICING)
        assert made.is_sampled(record)
        asyncio.run(made.compare(record, facts(), seen, Sent(BODY.encode())))

    assert made.calibration.errors[record.version, "prompt"].off == 40 * ENOUGH
    assert work_out(made, streamed()).prompt == PROMPT + 40


@pytest.mark.parametrize(
    ("sample", "chance", "report", "outcome", "sampled"),
    [
        (0.01, 0.009, True, Outcome.COMPLETE, True),
        (0.01, 0.01, True, Outcome.COMPLETE, False),
        (0.0, 0.0, True, Outcome.COMPLETE, False),
        (1.0, 0.5, False, Outcome.COMPLETE, False),
        (1.0, 0.5, True, Outcome.CLIENT_DISCONNECTED, False),
    ],
)
def test_only_whole_reported_exchanges_are_sampled(sample, chance, report, outcome, sampled):
    """An estimate teaches nothing about itself, and half an exchange nothing about a whole one."""
    made, _ = estimator(sample=sample, chance=chance)
    record = make_record(facts(outcome), streamed(report=TokenUsage(0, 1, 0, 1) if report else None), pricing=PRICING)

    assert made.is_sampled(record) is sampled


def test_a_sample_does_not_load_the_tokenizer_under_streams():
    """Only a quiet moment, or an exchange that needs it, is a reason to; once it is there, samples are taken again."""
    made, _ = estimator(quiet=False)
    record = make_record(facts(), streamed(report=TokenUsage(0, 1, 0, 1)), pricing=PRICING)

    assert not made.is_sampled(record)
    work_out(made, streamed())
    assert made.is_sampled(record)


def test_a_host_whose_streams_report_nothing_is_named():
    """In the log, with the setting that would help, once an hour; in a counter, every time."""
    made, _ = estimator()
    record = make_record(facts(), streamed(), pricing=PRICING)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            made.note(record)
        made._monotonic_s = lambda: NAME_AGAIN_AFTER_S
        made.note(record)

    assert made.streams_without_usage == {"default": 4}
    assert [(line["event"], line["upstream"]) for line in logs] == [("stream_without_usage", "default")] * 2
    assert "add_include_usage = true" in logs[0]["advice"]


@pytest.mark.parametrize("outcome", [Outcome.CLIENT_DISCONNECTED, Outcome.UPSTREAM_DISCONNECTED, Outcome.TIMED_OUT])
def test_a_broken_stream_says_nothing_of_its_host(outcome):
    """Its usage would have come at the end."""
    made, _ = estimator()
    made.note(make_record(facts(outcome), streamed(), pricing=PRICING))

    assert made.streams_without_usage == {}


def test_a_spoilt_usage_is_kept_beside_the_estimate():
    """The numbers that could not be read stand in the record, literally."""
    seen = streamed()
    seen.take_fault(Missing.BROKEN_USAGE, b'{"prompt_tokens":"12"}')
    record = make_record(facts(), seen, TokenUsage(0, 1, 0, 1), pricing=PRICING)

    assert (record.source, record.missing) == (Source.ESTIMATED, Missing.BROKEN_USAGE)
    assert record.reported_usage == '{"prompt_tokens":"12"}'
