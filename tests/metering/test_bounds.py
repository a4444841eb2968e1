"""The most a request can cost, as its body tells it: what limits it, what multiplies it, and what has no bound at all.

A bound that is too low lets a budget be passed; so whatever cannot be told has to be said to have none.
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metering.bounds import UNREAD, Bounds, bounds_in
from proxy.usage import METERED_APIS, Api

APIS = sorted(METERED_APIS)
HI = [{"role": "user", "content": "hi"}]
PICTURE = "data:image/png;base64,AAAA"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
FIELDS = """max_tokens max_completion_tokens max_output_tokens n best_of prompt tools type input image_url file_id
    messages conversation plugins parameters document function source"""
known = st.sampled_from(sorted(FIELDS.split()))
odd_objects = st.recursive(
    json_values,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(known, inner, max_size=4),
    max_leaves=20,
)


def bounds(api=Api.CHAT, **asked):
    return bounds_in(json.dumps(asked).encode(), api)


def has_bound(**asked):
    return not bounds(**asked).unbounded_by


def part(**fields):
    """A request whose message holds such a part beside its text."""
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, fields]}]}


# The limit of the output.


@pytest.mark.parametrize(
    ("api", "asked", "most"),
    [
        (Api.CHAT, {"max_tokens": 7}, 7),
        (Api.FIM, {"max_tokens": 7}, 7),
        (Api.ANTHROPIC, {"max_tokens": 7}, 7),
        (Api.RESPONSES, {"max_output_tokens": 7}, 7),
        *((api, {}, None) for api in APIS),
        *((api, {"max_tokens": None, "max_output_tokens": None}, None) for api in APIS),
    ],
)
def test_each_dialect_has_its_limit(api, asked, most):
    assert bounds(api, **asked) == Bounds(most)


@pytest.mark.parametrize(
    ("api", "name"),
    [
        (Api.CHAT, "max_output_tokens"),
        (Api.CHAT, "max_completion_tokens"),
        (Api.FIM, "max_completion_tokens"),
        (Api.ANTHROPIC, "max_output_tokens"),
        (Api.RESPONSES, "max_tokens"),
        (Api.RESPONSES, "max_completion_tokens"),
    ],
)
def test_the_limit_of_another_dialect_limits_nothing(api, name):
    """The host may pass it over, and write as much as it can."""
    assert bounds(api, **{name: 7}).max_tokens is None


@pytest.mark.parametrize("api", APIS)
def test_of_several_limits_the_highest_counts(api):
    """Which of them a host goes by is not known."""
    own = "max_output_tokens" if api is Api.RESPONSES else "max_tokens"

    assert bounds(api, **{"max_completion_tokens": 900, own: 7}).max_tokens == 900
    assert bounds(api, **{"max_completion_tokens": 7, own: 900}).max_tokens == 900


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of"])
@pytest.mark.parametrize("value", [-1, 7.0, 7.5, True, False, "7", [], {}, [7], 10**9 + 1, 10**30])
def test_a_limit_that_is_no_whole_number_is_none(name, value):
    """Nobody knows what a host makes of it, even where another limit stands beside it."""
    assert bounds(**{"max_tokens": 5, name: value}).unbounded_by == "a limit that is no whole number"


@pytest.mark.parametrize("api", APIS)
def test_a_limit_of_zero_limits_nothing(api):
    """Some hosts take it for a limit that is not set."""
    own = "max_output_tokens" if api is Api.RESPONSES else "max_tokens"

    assert bounds(api, **{own: 0}) == Bounds(None)


# What multiplies the output.


@pytest.mark.parametrize(
    ("asked", "choices"),
    [
        ({}, 1),
        ({"n": None}, 1),
        ({"n": 0}, 1),
        ({"n": 3}, 3),
        ({"best_of": 4}, 4),
        ({"n": 3, "best_of": 4}, 4),
        ({"n": 4, "best_of": 3}, 4),
        ({"prompt": "one"}, 1),
        ({"prompt": ["one", "two", "three"]}, 3),
        ({"prompt": ["one", "two"], "n": 3}, 6),
        ({"prompt": [5, 6, 7]}, 1),
        ({"prompt": [[5, 6], [7]]}, 2),
        ({"prompt": []}, 1),
    ],
)
def test_every_choice_and_every_prompt_has_an_output(asked, choices):
    assert bounds(Api.FIM, **asked) == Bounds(None, choices)


# What has no bound.


@pytest.mark.parametrize(
    "asked",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"conversation": {"id": "conv_1"}},
        {"container": "c"},
        {"prompt": {"id": "pmpt_1"}},
        {"mcp_servers": [{"url": "https://x"}]},
        {"plugins": [{"id": "web"}]},
        {"search_parameters": {"mode": "auto"}},
        {"web_search_options": {"search_context_size": "low"}},
        {"tools": [{"type": "web_search"}]},
        {"tools": [{"type": "function"}, {"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "mcp", "server_url": "https://x"}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
        {"tools": ["web_search"]},
        {"tools": [{"type": ["function"]}]},
        {"input": [{"type": "item_reference", "id": "i"}]},
        {"input": [{"type": "function_call_output", "output": [{"type": "input_image", "file_id": "f"}]}]},
        {"input": "https://x", "file_id": "f"},
        part(type="image_url", image_url={"url": "https://x/y.png"}),
        part(type="image_url", image_url={"url": PICTURE}),
        part(type="anything", image_url={"url": PICTURE}),
        part(type="input_image", image_url=PICTURE),
        part(type="image", source={"type": "base64", "data": "AAAA"}),
        part(type="image", source={"type": "url", "url": "https://x"}),
        part(type="document", source={"type": "file", "file_id": "f"}),
        part(type="document", source={"type": "text", "data": "hi"}),
        part(type="container_upload", file_id="f"),
        part(type="input_file", file_url="https://x"),
        part(type="input_file", file_data="AAAA"),
        part(type="input_audio", input_audio={"data": "AAAA"}),
        part(type="video_url", video_url={"url": "https://x"}),
        part(image={"format": "png", "source": {"bytes": "AAAA"}}),
        part(document={"format": "pdf", "name": "d", "source": {"s3Location": {"uri": "s3://x"}}}),
        part(video={"format": "mp4", "source": {"s3Location": {"uri": "s3://x"}}}),
        part(type="tool_result", content=[{"type": "image", "source": {"type": "base64", "data": "AAAA"}}]),
        part(type="tool_result", content=[{"image": {"format": "png", "source": {"bytes": "AAAA"}}}]),
    ],
    ids=lambda asked: json.dumps(asked)[-60:],
)
def test_what_refers_to_more_than_its_text_has_no_bound(asked):
    assert bounds(max_tokens=5, **asked).unbounded_by


@pytest.mark.parametrize("kind", ["function_call", "tool_use"])
def test_a_request_cannot_call_itself_a_call_to_hide_its_input(kind):
    """What a tool is called with is text; what a model is asked is not, whatever stands beside it."""
    assert bounds(Api.RESPONSES, type=kind, input=[{"type": "input_file", "file_id": "f"}]).unbounded_by


def test_what_has_no_bound_is_found_at_any_depth():
    depth = 400
    body = b'{"messages":' + b"[" * depth + b'{"file_id":"f"}' + b"]" * depth + b"}"

    assert bounds_in(body).unbounded_by == "file_id, which refers to text that is not in the body"


def test_the_reason_names_the_tool_and_stays_short():
    assert bounds(tools=[{"type": "x" * 1000}]).unbounded_by == f"the tool {'x' * 40}, which runs at the upstream"


# What has one.


@pytest.mark.parametrize(
    "asked",
    [
        {"messages": HI},
        {"input": "hi"},
        {"previous_response_id": None, "conversation": None, "plugins": [], "mcp_servers": [], "container": ""},
        {"messages": HI, "tools": None},
        {"messages": HI, "tools": {"type": "web_search"}},
        {"messages": HI, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"messages": HI, "tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        {"messages": HI, "tools": [{"type": "custom", "name": "f"}]},
        part(type=["image"], text="a type that is none"),
        part(type="text", text="see file_id and https://x/y.png"),
        part(type="tool_use", id="t", name="f", input={"file_id": "f", "type": "image"}),
        part(type="tool_result", content="done"),
        {"input": [{"type": "function_call", "arguments": '{"file_id": "f"}'}, {"type": "message", "content": "hi"}]},
        {"messages": HI, "image": "of what", "document": {"title": "no source"}},
    ],
    ids=lambda asked: json.dumps(asked)[-60:],
)
def test_text_and_tools_of_the_client_have_a_bound(asked):
    assert has_bound(max_tokens=5, **asked)


@pytest.mark.parametrize(
    "tool",
    [
        {
            "type": "function",
            "function": {"name": "f", "parameters": {"properties": {"image_url": {"type": "string"}}}},
        },
        {"type": "function", "function": {"parameters": {"properties": {"file_id": {"type": "file"}}}}},
        {"name": "f", "input_schema": {"properties": {"file_url": {"type": "document"}}}},
    ],
)
def test_a_schema_may_name_its_fields_as_it_likes(tool):
    assert has_bound(messages=HI, tools=[tool])


@pytest.mark.parametrize(
    "asked", [{"file_id": "f"}, {"previous_response_id": "r"}, part(type="image_url", image_url="x")]
)
def test_text_that_only_looks_like_such_a_field_has_a_bound(asked):
    """People send JSON to a model, within a string."""
    assert has_bound(max_tokens=5, messages=[{"role": "user", "content": json.dumps(asked)}])
    assert has_bound(max_tokens=5, prompt=json.dumps({"tools": [{"type": "web_search"}], **asked}))
    assert bounds(messages=[{"role": "user", "content": '{"max_tokens": 5}'}]).max_tokens is None


def test_a_limit_inside_a_message_is_none():
    assert bounds(messages=[{"role": "user", "content": "hi", "max_tokens": 5, "n": 9}]) == Bounds(None, 1)


# Odd bodies.


@pytest.mark.parametrize(
    "body", [b"", b"null", b"7", b"[]", b'"x"', b"{", b'{"max_tokens": 1e400}', b"\xff\xfe{}", b"[" * 100_000]
)
def test_what_is_no_object_cannot_be_read_and_has_no_bound(body):
    assert bounds_in(body) == UNREAD
    assert UNREAD.unbounded_by


@given(odd_objects | st.dictionaries(known, odd_objects), st.sampled_from(APIS))
def test_whatever_json_comes_something_is_said_of_it(asked, api):
    """And it is never less than one choice, and never a negative limit."""
    found = bounds_in(json.dumps(asked).encode("utf-8", "surrogatepass"), api)

    assert found.choices >= 1
    assert found.max_tokens is None or found.max_tokens > 0


@given(st.binary())
def test_whatever_bytes_come_something_is_said_of_them(body):
    assert bounds_in(body).choices >= 1


@pytest.mark.parametrize("depth", [100, 500, 900, 990, 1000, 5000, 100_000])
def test_a_type_of_any_depth_is_no_fault_of_ours(depth):
    """Where Python itself gives up, there is no bound."""
    assert bounds_in(b'{"tools":[{"type":' + b"[" * depth + b"]" * depth + b"}]}").unbounded_by


@pytest.mark.parametrize("filling", [b"[],", b"{},", b"1,"])
def test_a_body_of_more_parts_than_are_looked_at_has_its_limits_and_no_bound(filling):
    """One client may not hold up all others of its worker; what it says of `max_tokens` counts all the same."""
    body = b'{"max_tokens":77,"n":2,"messages":[' + filling * 200_000 + b"0]}"
    assert bounds_in(body) == Bounds(77, 2, "a body of more parts than are looked at")


def test_a_long_text_is_no_body_of_many_parts():
    """Megabytes of prose are one part."""
    text = "It was, as he said, a long and winding road. " * 40_000
    body = json.dumps({"max_tokens": 5, "messages": [{"role": "user", "content": text}]}).encode()
    assert bounds_in(body) == Bounds(5)
