import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metering.calibration import ENOUGH, MAX_VERSIONS, OTHER, Calibration, Errors
from proxy.usage import TokenUsage

V = "DeepSeek-V4.1-Flash-1017"


def taught(reported, estimated, times=ENOUGH, thinking=False):
    calibration = Calibration()
    for _ in range(times):
        calibration.take(V, TokenUsage(*reported), TokenUsage(*estimated), thinking=thinking)
    return calibration


def test_what_is_reported_corrects_the_next_estimate():
    """A prompt that is always 40 tokens longer, an output always a quarter more."""
    calibration = taught((64, 76, 20, 80), (0, 100, 16, 64))

    assert calibration.corrected(V, TokenUsage(0, 200, 10, 30), thinking=False) == TokenUsage(0, 240, 10, 40)


@pytest.mark.parametrize(
    ("version", "thinking", "times"), [(V, True, ENOUGH), ("another", False, ENOUGH), (V, False, ENOUGH - 1)]
)
def test_only_enough_samples_of_the_same_kind_correct(version, thinking, times):
    """Another version, the other mode of thinking, or too few samples leave an estimate as it is."""
    usage = TokenUsage(0, 200, 10, 30)

    assert taught((0, 140, 0, 100), (0, 100, 0, 80), times).corrected(version, usage, thinking=thinking) == usage


def test_the_error_is_that_of_estimates_as_they_are_given_out():
    """Once it has learned, the published error of a constant difference stays where it is."""
    calibration = taught((0, 140, 0, 50), (0, 100, 0, 50), times=ENOUGH + 30)
    prompt = calibration.errors[V, "prompt"]

    assert prompt == Errors(ENOUGH + 30, (ENOUGH + 30) * 140, ENOUGH * 100 + 30 * 140, ENOUGH * 40)
    assert calibration.errors[V, "answer"].off == 0


def test_pages_read_by_the_server_do_not_become_a_template():
    """One search costs 40,000 tokens of input that no later request has."""
    assert taught((0, 40_100, 0, 5), (0, 100, 0, 5)).corrected(V, TokenUsage(0, 100), thinking=False).prompt == 1100


def test_versions_without_measure_are_kept_together():
    """Names come from the upstream; what is learned of them is bounded."""
    calibration = Calibration()
    for number in range(MAX_VERSIONS + 20):
        calibration.take(f"v{number}", TokenUsage(0, 1), TokenUsage(0, 1), thinking=False)

    assert len({version for version, _ in calibration.errors}) == MAX_VERSIONS + 1
    assert calibration.errors[OTHER, "prompt"].checks == 20


usages = st.builds(TokenUsage, *[st.integers(0, 10**6)] * 4)


@given(st.lists(st.tuples(usages, usages), max_size=40), usages)
def test_a_corrected_estimate_is_possible(samples, usage):
    """Whatever was reported: no negative count, the reasoning inside the completion."""
    calibration = Calibration()
    for reported, estimated in samples:
        calibration.take(V, reported, estimated, thinking=True)
    corrected = calibration.corrected(V, usage, thinking=True)

    assert min(count for _, count in corrected.by_kind()) >= 0
