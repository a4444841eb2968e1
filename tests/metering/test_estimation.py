import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from metering.counting import Words, real

from proxy.metering.estimation import (
    Counted,
    Said,
    count,
    divided,
    estimate,
    needs_division,
    rough,
    said_of,
    split_thinking,
)
from proxy.metering.meter import Meter
from proxy.metering.prompt import SaidCall
from proxy.metering.reading import MAX_TEXT_CHARACTERS, Reading
from proxy.metering.templates import template_of
from proxy.metering.usage_report import UsageReport
from proxy.usage import Api, TokenUsage

V3, V3_1, V4 = template_of("DeepSeek-V3"), template_of("DeepSeek-V3.1"), template_of("DeepSeek-V4-Flash-0731")
NOTHING = Said("", "", (), {"reasoning": 1.0, "answer": 1.0})


def reading_of(reasoning=0, answer=0, tool=0, *, streamed=True):
    reading = Reading()
    reading.reasoning_deltas, reading.answer_deltas, reading.tool_deltas = reasoning, answer, tool
    reading.streamed = streamed
    return reading


def counted(prompt=0, reasoning=0, answer=0, tools=0):
    return Counted(prompt, reasoning, answer, tools, thinking=reasoning > 0)


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [((0, 0), (0, 0)), ((0, 6), (0, 6)), ((3, 0), (3, 0)), ((3, 2), (3, 3))],
)
def test_at_deepseek_a_delta_is_a_token_and_the_end_of_thinking_is_one(deltas, expected):
    """Whatever the tokenizer makes of the text: the stream's own pieces are counted."""
    guessed = estimate(reading_of(*deltas), counted(reasoning=deltas[0] * 9, answer=99), one_token_deltas=True).usage

    assert (guessed.output_reasoning, guessed.output_answer) == expected


def test_calls_are_counted_with_their_markup_beside_the_deltas():
    """Pieces of arguments are no tokens: markup is billed and not sent."""
    guessed = estimate(reading_of(3, 0, 20), counted(tools=45), one_token_deltas=True).usage

    assert (guessed.output_reasoning, guessed.output_answer) == (3, 46)


@pytest.mark.parametrize(("one_token", "streamed"), [(False, True), (True, False), (False, False)])
def test_elsewhere_and_in_json_the_tokenizer_counts(one_token, streamed):
    """Azure bundles several tokens in a delta; a JSON body has none."""
    seen = reading_of(445, 337, streamed=streamed)

    assert TokenUsage(0, 7, 1011, 708) == estimate(seen, counted(7, 1011, 707), one_token_deltas=one_token).usage


def test_thinking_inside_the_answer_is_told_apart_by_count():
    """A stream of one-token deltas with `<think>` in its content: the deltas say how much, the tokenizer what of it."""
    assert (
        TokenUsage(0, 0, 4, 7)
        == estimate(reading_of(0, 10), counted(reasoning=4, answer=5), one_token_deltas=True).usage
    )


def test_a_prompt_reported_at_the_start_of_a_stream_is_taken():
    """Anthropic's first event has it, cache and all."""
    seen = reading_of(0, 2)
    seen.known_prompt = (64, 38)

    assert TokenUsage(64, 38, 0, 2) == estimate(seen, counted(prompt=999), one_token_deltas=True).usage


@pytest.mark.parametrize(("size", "tokens"), [(0, 0), (1, 1), (10, 3), (11, 4), (1000, 300)])
def test_without_a_tokenizer_the_prompt_goes_by_its_size(size, tokens):
    """Three tokens for ten bytes, rounded up; the output by its deltas."""
    assert Counted(tokens, 3, 2, 1, thinking=True, prompt_by_size=True, by_tokenizer=False) == rough(
        reading_of(3, 2, 1), size
    )


def test_without_a_tokenizer_json_goes_by_the_length_of_its_text():
    """There are no deltas in a body that was not streamed."""
    seen = Reading()
    seen.answer.add("x" * 100)
    seen.add_call(0, "f", "y" * 10)

    assert Counted(0, 0, 30, 3, thinking=False, prompt_by_size=True, by_tokenizer=False) == rough(seen, 0)


@pytest.mark.parametrize(
    ("answer", "reasoning", "rest"),
    [
        ("Four", "", "Four"),
        ("<think>\nhm\n</think>\n\nFour", "\nhm\n", "\n\nFour"),
        ("\n <think>hm</think>", "hm", ""),
        ("<think>cut off by a length", "cut off by a length", ""),
        ("say <think>not reasoning</think>", "", "say <think>not reasoning</think>"),
        ("<thinking>other</thinking>", "", "<thinking>other</thinking>"),
        ("", "", ""),
    ],
)
def test_thinking_that_opens_an_answer_is_reasoning(answer, reasoning, rest):
    """Together, Hyperbolic and Groq send it so; a tag further on is what the answer is about."""
    assert (reasoning, rest) == split_thinking(answer)


@pytest.mark.parametrize(("served", "reasoning"), [("deepseek-ai/DeepSeek-R1-0528", "hm"), ("DeepSeek-V3", "")])
def test_thinking_opened_by_the_template_ends_in_the_answer(served, reasoning):
    """Hosts of R1 open it in the prompt, so that only its end goes by; with other models a tag is what is talked about."""
    seen = with_report(answer="hm</think>Four")
    seen.served_model = served

    assert said_of(seen).reasoning == reasoning
    assert needs_division(seen) is bool(reasoning)


@pytest.mark.parametrize(
    ("known", "size", "one_token", "expected"),
    [
        (None, False, True, (True, 0, 4)),
        (None, False, False, (True, 5, 4)),
        ((1, 2), False, True, (False, 0, 4)),
        (None, True, True, (False, 0, 4)),
    ],
)
def test_an_estimate_says_what_of_it_is_our_count(known, size, one_token, expected):
    """Only that may be corrected by what is reported elsewhere."""
    seen = reading_of(2, 3)
    seen.known_prompt = known
    guessed = estimate(seen, Counted(9, 2, 3, 4, thinking=True, prompt_by_size=size), one_token_deltas=one_token)

    assert (guessed.counted_prompt, guessed.counted_text, guessed.counted_tools) == expected


def with_report(completion=20, *, reasoning_reported=False, reasoning="", answer=""):
    seen = Reading()
    seen.report = UsageReport(TokenUsage(0, 5, 0, completion), reasoning_reported=reasoning_reported)
    seen.reasoning.add(reasoning)
    seen.answer.add(answer)
    return seen


@pytest.mark.parametrize(
    ("seen", "needed"),
    [
        (with_report(reasoning="hm"), True),
        (with_report(answer="<think>hm"), True),
        (with_report(answer="  \n<think>hm"), True),
        (with_report(answer="hm"), False),
        (with_report(reasoning="hm", reasoning_reported=True), False),
        (with_report(0, reasoning="hm"), False),
        (Reading(), False),
    ],
)
def test_a_completion_is_divided_where_reasoning_went_by_uncounted(seen, needed):
    """Where the host counted it, or there is nothing to divide, the report stands as it is."""
    assert needed is needs_division(seen)


@pytest.mark.parametrize(
    ("count_of", "reasoning"),
    [
        (counted(reasoning=12, answer=6), 12),
        (counted(reasoning=12, answer=8), 12),
        (counted(reasoning=12, tools=3), 12),
        (counted(reasoning=13), 20),
        (counted(reasoning=50), 20),
        (counted(reasoning=30, answer=10), 15),
        (counted(answer=6), 0),
    ],
)
def test_the_division_of_a_completion(count_of, reasoning):
    """All is reasoning where nothing else was said; beyond the report both counts give way in proportion."""
    usage = divided(TokenUsage(3, 4, 0, 20), count_of)

    assert TokenUsage(3, 4, reasoning, 20 - reasoning) == usage


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_division_keeps_the_completion(completion, reasoning, answer, tools):
    """Both parts add up to what was reported, and neither is negative."""
    usage = divided(TokenUsage(0, 0, 0, completion), counted(0, reasoning, answer, tools))

    assert usage.completion == completion
    assert min(usage.output_reasoning, usage.output_answer) >= 0


CHAT = {"model": "m", "messages": [{"role": "system", "content": "one two"}, {"role": "user", "content": "three"}]}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def prompt_tokens(template, *, hidden=False, said=NOTHING, **changes):
    return count(Words(), said, json.dumps({**CHAT, **changes}).encode(), template, hidden=hidden).prompt


def test_a_prompt_is_its_words_and_its_template():
    """A start, a role for the user, and what the family puts behind the last turn."""
    assert prompt_tokens(V3) == 3 + 1 + 1 + 1
    assert prompt_tokens(V4, thinking={"type": "disabled"}) == 3 + 1 + 1 + 2


def test_a_thinking_prompt_has_what_the_host_hides_before_it():
    """At DeepSeek's own host, for versions that think unless told not to; evidence counts more than the request."""
    plain = prompt_tokens(V4, thinking={"type": "disabled"})

    assert prompt_tokens(V4, hidden=True) == plain + V4.hidden
    assert prompt_tokens(V4, hidden=False) == plain
    assert prompt_tokens(V4, hidden=True, model="deepseek-chat") == plain
    thought = Said("hm", "", (), {"reasoning": 1.0, "answer": 1.0})
    assert prompt_tokens(V4, hidden=True, said=thought, thinking={"type": "disabled"}) == plain + V4.hidden


def test_tools_turns_with_calls_and_images_count():
    """Instructions once, each function as JSON, reasoning and calls of earlier turns where the family keeps them."""
    base = prompt_tokens(V4, thinking={"type": "disabled"})
    call = {"function": {"name": "f", "arguments": '{"a":"b c"}'}}
    turn = {"role": "assistant", "content": None, "reasoning_content": "I think", "tool_calls": [call]}
    image = {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "image_url": {}}]}
    off = {"thinking": {"type": "disabled"}}

    assert prompt_tokens(V4, tools=[TOOL], **off) == base + V4.tools + 4
    assert prompt_tokens(V4, tools=[TOOL], tool_choice="required", **off) == base + V4.tools + 4 + 7
    assert prompt_tokens(V4, messages=[*CHAT["messages"], turn], **off) == base + 2 + 2 + (13 + 12 + 1 + 14 + 1 + 2)
    assert prompt_tokens(V3, messages=[*CHAT["messages"], turn]) == prompt_tokens(V3) + 2 + 1 + 2
    assert prompt_tokens(V4, messages=[*CHAT["messages"], image], **off) == base + 1 + 1 + 384
    assert prompt_tokens(V3, response_format={"type": "json_object"}) == prompt_tokens(V3) + V3.json_mode


@pytest.mark.parametrize(
    ("template", "calls", "tokens"),
    [
        (V3, [("f", "{}")], 1 + 10 + 1 + 1),
        (V3, [("f", "{}"), ("g", "{}")], 1 + 2 * (10 + 1 + 1)),
        (V3_1, [("f", "{}")], 2 + 3 + 1 + 1),
        (V4, [("f", "{}")], 13 + 12 + 1),
        (V4, [("f", '{"a":"b c","n":5}')], 13 + 12 + 1 + (14 + 1 + 2) + (14 + 1 + 1)),
        (V4, [("f", '{"a":1e400,"b":[1, 2]}')], 13 + 12 + 1 + (14 + 1 + 1) + (14 + 1 + 2)),
        (V4, [("f", '{"a":"b c')], 13 + 12 + 1 + 2 + 14),
        (V4, [], 0),
    ],
)
def test_calls_are_counted_as_the_family_writes_them(template, calls, tokens):
    """Fenced JSON, plain JSON, or tags around each parameter; cut-off arguments are counted as far as they came."""
    said = Said("", "", tuple(SaidCall(*call) for call in calls), {"reasoning": 1.0, "answer": 1.0})

    assert count(Words(), said, json.dumps(CHAT).encode(), template, hidden=False).tools == tokens


@pytest.mark.parametrize("body", [b"", b"null", b"[1]", b"{", b"\xff"])
def test_a_request_that_cannot_be_read_goes_by_its_size(body):
    """The upstream may have understood it; we know only how long it is."""
    assert count(Words(), NOTHING, body, V4, hidden=True).prompt == -(-len(body) * 3 // 10)


def test_a_text_that_was_not_kept_whole_is_extrapolated():
    """Beyond the bound only the length is known."""
    seen = Reading()
    for _ in range(5):
        seen.answer.add("word " * (MAX_TEXT_CHARACTERS // 10))
    said = said_of(seen)

    assert len(said.answer) == MAX_TEXT_CHARACTERS
    assert count(Words(), said, b"{}", V4, hidden=False).answer == pytest.approx(MAX_TEXT_CHARACTERS // 2, abs=2)


def test_half_a_stream_is_estimated_as_what_went_by():
    """Cut in the middle of an answer: reasoning, its end and the words so far."""
    meter = Meter(Api.CHAT)
    for delta in ({"reasoning_content": "We"}, {"reasoning_content": " add"}, {"content": "Fo"}):
        meter.feed(b"data: " + json.dumps({"choices": [{"delta": delta}]}).encode() + b"\n\n")
    reading = meter.finish()
    guessed = estimate(reading, count(real(), said_of(reading), b"", V4, hidden=True), one_token_deltas=True).usage

    assert (guessed.output_reasoning, guessed.output_answer) == (2, 2)
