"""Scenarios: the built-in one reads, and a wrong one says file, key and what was expected."""

import re

import pytest
from simulator.running import QUICK

from proxy.errors import SettingsError
from proxy.simulator.scenario import Spread, default_scenario, parse_scenario, window_seconds

MODEL = '[[models]]\nnames = ["m"]\nserved = "m"\n'


def test_the_built_in_scenario_reads():
    """It has two priced models, one without a price, retired names and a swap."""
    scenario = default_scenario()
    assert scenario.listed() == ("deepseek-flash", "deepseek-v4-pro")
    assert scenario.model("deepseek-v4-flash").served == "deepseek-flash"
    assert scenario.model("deepseek-ai/DeepSeek-R1-0528").unpriced
    assert "deepseek-chat" in scenario.retired
    assert scenario.swaps


def test_numbers_and_spreads_are_both_amounts():
    """A fixed number, a range and a log-normal distribution are all understood."""
    text = (
        MODEL
        + "unpriced = true\nprompt_tokens = 5\nanswer_tokens = { max = 9 }\nreasoning_tokens = { median = 4, max = 9 }\n"
    )
    model = parse_scenario(text, "x.toml").models[0]
    assert (model.prompt_tokens, model.answer_tokens) == (5, Spread(max=9))
    assert model.reasoning_tokens.median == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models = [", ["not valid TOML"]),
        ("seed = 1", ["models"]),
        (QUICK.replace("seed = 7", "sed = 7"), ["sed", "unknown field"]),
        (QUICK.replace("seed = 7", 'seed = "7"'), ["seed", "Expected `int`"]),
        (MODEL, ["models", "unpriced = true"]),
        (MODEL + 'prices = { hit = "1", miss = "1", output = "dear" }', ["prices", "decimal number", "dear"]),
        (MODEL + 'prices = { hit = "1", miss = "1", output = "-1" }', ["prices", "decimal number"]),
        (MODEL + 'prices = { hit = "1", miss = "1", output = 1 }', ["output", "Expected `str`"]),
        (MODEL + 'prices = { hit = "1", miss = "1", output = "1" }\noff_peak = "half"', ["decimal number", "half"]),
        (MODEL + "unpriced = true\nanswer_tokens = { min = 5, max = 4 }", ["answer_tokens", "min <= max"]),
        (MODEL + "unpriced = true\ntool_call_share = 1.5", ["tool_call_share", "<= 1.0"]),
        (MODEL + 'unpriced = true\n[peak]\nwindows = ["4-1"]', ["peak", "01:00-04:00"]),
        (MODEL + 'unpriced = true\n[peak]\nweekdays = ["monday"]', ["weekdays", "monday"]),
        (MODEL + "unpriced = true\n[mishaps]\nerrors = { 418 = 0.1 }", ["errors", "418"]),
        (MODEL + "unpriced = true\n[mishaps]\nerrors = { 400 = 0.9 }\nbreak_share = 0.2", ["mishaps", "at most 1"]),
        (MODEL + 'unpriced = true\n[[swaps]]\nmodel = "m"\nfingerprint = "f"', ["swaps", "exactly one"]),
        (
            MODEL + 'unpriced = true\n[[swaps]]\nmodel = "x"\nfingerprint = "f"\nafter_seconds = 1',
            ["known models", "x"],
        ),
        (MODEL + "unpriced = true\n" + MODEL + "unpriced = true\n", ["one meaning", "'m'"]),
        (MODEL + 'unpriced = true\n[balance]\ntopped_up = "NaN"', ["balance", "decimal number"]),
    ],
)
def test_a_wrong_scenario_says_where_and_what(text, words):
    """The message begins with the file's name and holds the key and the expectation."""
    with pytest.raises(SettingsError) as raised:
        parse_scenario(text, "demo.toml")
    assert str(raised.value).startswith("demo.toml: ")
    for word in words:
        assert re.search(re.escape(word), str(raised.value)), str(raised.value)


def test_windows_may_end_at_midnight():
    """24:00 is the end of the day, and a window cannot run backwards."""
    assert window_seconds("22:00-24:00") == (79200, 86400)
    with pytest.raises(ValueError, match="window"):
        window_seconds("23:00-01:00")
