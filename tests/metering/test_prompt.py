import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metering.prompt import Prompt, SaidCall, Turn, read_prompt


def read(**asked):
    return read_prompt(json.dumps(asked).encode())


def test_the_turns_of_a_chat():
    """Roles, words, reasoning, calls and images of each message."""
    prompt = read(
        messages=[
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [{"type": "text", "text": "a"}, {"type": "image_url"}, {"type": "text", "text": "b"}],
            },
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "4", "tool_call_id": "x"},
        ]
    )

    assert prompt.turns == (
        Turn("system", "Be brief."),
        Turn("user", "ab", images=1),
        Turn("assistant", reasoning="hm", calls=(SaidCall("f", "{}"),)),
        Turn("tool", "4"),
    )


def test_the_turns_of_the_anthropic_dialect():
    """System as text or blocks, thinking, tool use and results inside the content."""
    prompt = read(
        system=[{"type": "text", "text": "Be brief."}],
        messages=[
            {"role": "user", "content": "a"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm"},
                    {"type": "text", "text": "b"},
                    {"type": "tool_use", "name": "f", "input": {"x": 1}},
                ],
            },
            {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "4"}]}]},
        ],
        tools=[{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
    )

    assert prompt.turns == (
        Turn("system", "Be brief."),
        Turn("user", "a"),
        Turn("assistant", "b", "hm", (SaidCall("f", '{"x":1}'),)),
        Turn("user", "4"),
    )
    assert prompt.tools == ('{"name": "f", "description": "d", "input_schema": {"type": "object"}}',)


def test_the_turns_of_the_responses_dialect():
    """A string, or items: messages, calls and what they gave."""
    assert read(input="a", instructions="Be brief.").turns == (Turn("system", "Be brief."), Turn("user", "a"))
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "a"}]},
        {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
        {"type": "function_call_output", "call_id": "c", "output": "4"},
    ]

    assert read(input=items).turns == (
        Turn("user", "a"),
        Turn("assistant", "hm"),
        Turn("assistant", calls=(SaidCall("f", "{}"),)),
        Turn("tool", "4"),
    )


def test_a_fim_prompt_is_no_chat():
    """Before and behind, without a template."""
    assert Prompt((Turn("user", "ab"),), is_chat=False) == read(prompt="a", suffix="b")


def test_a_function_is_printed_as_templates_print_it():
    """JSON with blanks behind the separators, without the wrapper."""
    tool = {"type": "function", "function": {"name": "f", "parameters": {"a": [1, 2]}}}

    assert read(messages=[], tools=[tool]).tools == ('{"name": "f", "parameters": {"a": [1, 2]}}',)


@pytest.mark.parametrize(
    ("asked", "thinking"),
    [
        ({}, None),
        ({"thinking": {"type": "enabled"}}, True),
        ({"thinking": {"type": "disabled"}}, False),
        ({"thinking": {"type": "disabled"}, "reasoning_effort": "high"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning": {"effort": "low"}}, True),
        ({"model": "deepseek-chat"}, False),
        ({"model": "deepseek-reasoner"}, True),
        ({"model": "deepseek-flash"}, None),
        ({"thinking": "enabled"}, None),
    ],
)
def test_whether_a_request_wants_thinking(asked, thinking):
    """In its own words, or by the old names; else it is left to the model."""
    assert read(messages=[], **asked).thinking is thinking


@pytest.mark.parametrize(
    ("choice", "forced"),
    [
        ("auto", False),
        ("none", False),
        ("required", True),
        ({"type": "function", "function": {}}, True),
        ({"type": "any"}, True),
        ({"type": "auto"}, False),
        (None, False),
    ],
)
def test_whether_a_call_is_demanded(choice, forced):
    """Then its opening is part of the prompt."""
    assert read(messages=[], tool_choice=choice).forced_call is forced


NAMES = st.sampled_from(
    ["messages", "role", "content", "tool_calls", "function", "name", "arguments", "tools", "type", "text", "input",
     "prompt", "suffix", "system", "thinking", "tool_choice", "reasoning", "response_format", "x"]
)  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(NAMES, json_values, max_size=6) | json_values)
def test_no_body_makes_it_raise(asked):
    """Every field may be of any kind: what is not as the dialect has it is passed over."""
    prompt = read_prompt(json.dumps(asked).encode())

    assert (prompt is not None) == isinstance(asked, dict)
