import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metering.calibration import ENOUGH, MAX_VERSIONS, OTHER, Calibration, Errors
from proxy.metering.estimation import Estimate
from proxy.usage import TokenUsage

V = "DeepSeek-V4.1-Flash-1017"


def guess(prompt=100, reasoning=0, answer=50, *, text=0, tools=0, thinking=False, counted_prompt=True):
    return Estimate(TokenUsage(0, prompt, reasoning, answer), thinking, counted_prompt, text, tools)


def taught(*pairs, times=ENOUGH):
    calibration = Calibration()
    for _ in range(times):
        for reported, guessed in pairs:
            calibration.take(V, TokenUsage(*reported), guessed)
    return calibration


def test_a_prompt_learns_a_difference():
    """Always 40 tokens longer: so many are added, the output stays."""
    calibration = taught(((64, 76, 0, 50), guess()))

    assert calibration.corrected(V, guess(200, 10, 30)) == TokenUsage(0, 240, 10, 30)


def test_text_that_was_counted_learns_a_ratio():
    """A quarter more is reported: reasoning and answer grow alike."""
    calibration = taught(((0, 100, 0, 100), guess(answer=80, text=80)))

    assert calibration.corrected(V, guess(100, 40, 80, text=120)) == TokenUsage(0, 100, 50, 100)


def test_calls_learn_a_ratio_of_their_own():
    """Only what is not text of a reported output teaches about calls, and only calls are corrected by it."""
    calibration = taught(((0, 100, 10, 50), guess(reasoning=10, answer=30, tools=20)))

    assert calibration.corrected(V, guess(100, 5, 25, tools=10)) == TokenUsage(0, 100, 5, 35)


def test_a_delta_that_is_a_token_is_never_corrected():
    """Whatever calls and counted texts have taught: a stream of 98 deltas is 98 tokens."""
    calibration = taught(((0, 100, 0, 13), guess(answer=9, text=9)), ((0, 100, 0, 60), guess(answer=40, tools=40)))

    assert calibration.corrected(V, guess(answer=98)) == TokenUsage(0, 100, 0, 98)
    assert calibration.corrected(V, guess(reasoning=100, answer=0)) == TokenUsage(0, 100, 100, 0)


def test_a_prompt_that_was_reported_or_sized_is_neither_corrected_nor_a_lesson():
    """Of a broken Anthropic stream it is known, of a body that cannot be read only how long it is."""
    calibration = taught(((0, 140, 0, 50), guess()), ((0, 100, 0, 50), guess(counted_prompt=False)))

    assert calibration.corrected(V, guess(500, counted_prompt=False)).prompt == 500
    assert calibration.corrected(V, guess(500)).prompt == 540


@pytest.mark.parametrize(
    ("version", "thinking", "times"), [(V, True, ENOUGH), ("another", False, ENOUGH), (V, False, ENOUGH - 1)]
)
def test_only_enough_samples_of_the_same_kind_correct(version, thinking, times):
    """Another version, the other mode of thinking, or too few samples leave an estimate as it is."""
    calibration = taught(((0, 140, 0, 50), guess()), times=times)

    assert calibration.corrected(version, guess(200, thinking=thinking)).prompt == 200


def test_the_error_is_that_of_estimates_as_they_are_given_out():
    """Once it has learned, the published error of a constant difference stays where it is."""
    calibration = taught(((0, 140, 0, 50), guess()), times=ENOUGH + 30)

    assert calibration.errors[V, "prompt"] == Errors(
        ENOUGH + 30, (ENOUGH + 30) * 140, ENOUGH * 100 + 30 * 140, ENOUGH * 40
    )
    assert calibration.errors[V, "answer"].off == 0


def test_pages_read_by_the_server_teach_nothing():
    """One search costs 40,000 tokens of input that no later request has; its error is published all the same."""
    calibration = taught(((0, 140, 0, 50), guess()))
    calibration.take(V, TokenUsage(0, 40_100, 0, 50), guess())

    assert calibration.corrected(V, guess()).prompt == 140
    assert calibration.errors[V, "prompt"].off >= 39_960


def test_versions_without_measure_are_kept_together():
    """Names come from the upstream; what is learned of them is bounded."""
    calibration = Calibration()
    for number in range(MAX_VERSIONS + 20):
        calibration.take(f"v{number}", TokenUsage(0, 1), guess(1, 0, 0))

    assert len({version for version, _ in calibration.errors}) == MAX_VERSIONS + 1
    assert calibration.errors[OTHER, "prompt"].checks == 20


counts = st.integers(0, 10**6)
usages = st.builds(TokenUsage, counts, counts, counts, counts)


@st.composite
def guesses(draw):
    usage, tools = draw(usages), draw(counts)
    whole = TokenUsage(
        usage.input_cache_hit, usage.input_cache_miss, usage.output_reasoning, usage.output_answer + tools
    )
    return Estimate(
        whole, draw(st.booleans()), draw(st.booleans()), draw(st.sampled_from([0, usage.completion])), tools
    )


@given(st.lists(st.tuples(usages, guesses()), max_size=40), guesses())
def test_a_corrected_estimate_is_possible(samples, guessed):
    """Whatever was reported: no negative count."""
    calibration = Calibration()
    for reported, one in samples:
        calibration.take(V, reported, one)

    assert min(count for _, count in calibration.corrected(V, guessed).by_kind()) >= 0
