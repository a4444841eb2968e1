"""What the simulator answers, held against recorded answers of the real API: keys, their order, types, framing."""

import asyncio
import json
from pathlib import Path

import pytest
from simulator.running import chat, chunks, quick, running, streamed

from proxy.gateway.admission import ADDED_TOKENS

RECORDINGS = Path(__file__).parents[3] / "shared" / "recordings"


def recorded(name):
    """The body of a recording."""
    path = RECORDINGS / name / "response.body"
    if not path.exists():
        pytest.skip(f"no recordings in {RECORDINGS}")
    return path.read_bytes()


def keys(value):
    """The keys of a JSON value in their order, with the types of what is no container."""
    if isinstance(value, dict):
        return [(key, keys(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return [keys(inner) for inner in value]
    return type(value).__name__


def answer(body, **headers):
    """Status, headers and body of one exchange."""

    async def talk():
        async with running() as client:
            return await client.post(body, **headers)

    return asyncio.run(talk())


def distinct(events):
    """The different shapes of a stream in the order they come first; different lengths are one shape."""
    seen = []
    for event in events:
        if keys(event) not in seen:
            seen.append(keys(event))
    return seen


@pytest.mark.parametrize(
    ("recording", "tokens", "include_usage"),
    [
        ("ds-v4flash-chat-stream-hexfp", "0,22,0,40", True),
        ("ds-reasoner-v3.2-stream", "0,48,9,20", True),
        ("ds-reasoner-r1-0528-stream-no-include-usage", "0,19,9,20", False),
        ("ds-v4alias-stream-opencode-no-include-usage", "0,14,0,2", False),
    ],
)
def test_streams_have_the_keys_of_recorded_ones(recording, tokens, include_usage):
    """Every shape of event that a real stream holds comes in the simulated one, in the same order, and no other."""
    real, _ = chunks(recorded(recording))
    _, _, body = answer(streamed(include_usage=include_usage), X_Simulator_Tokens=tokens)
    simulated, done = chunks(body)
    assert distinct(simulated) == distinct(real)
    assert done
    assert body.endswith(b"}\n\ndata: [DONE]\n\n")


def test_tool_call_streams_have_the_keys_of_a_recorded_one():
    """Content, the call's name, its arguments in pieces, the finish: as in the recording."""
    real, _ = chunks(recorded("ds-v4alias-chat-tools-stream"))
    _, _, body = answer(streamed(), X_Simulator_Tokens="0,348,0,77", X_Simulator_Behaviour="tool-call")
    simulated, _ = chunks(body)
    assert distinct(simulated) == distinct(real)
    pieces = [
        call["function"]["arguments"]
        for event in simulated
        for call in event["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert json.loads("".join(pieces))["numbers"]
    assert simulated[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("recording", "tokens", "behaviour"),
    [
        ("ds-v4flash-thinking-disabled", "0,18,0,1", "plain"),
        ("ds-v4flash-thinking-high", "0,97,15,2", "plain"),
        ("ds-chat-prod0425fp8-tools-nonstream-cachehit", "128,44,0,28", "tool-call"),
    ],
)
def test_bodies_have_the_keys_of_recorded_ones(recording, tokens, behaviour):
    """A JSON answer has the keys of a real one, in its order, and the same usage for the same tokens."""
    real = json.loads(recorded(recording))
    _, headers, body = answer(chat(), X_Simulator_Tokens=tokens, X_Simulator_Behaviour=behaviour)
    simulated = json.loads(body)
    assert keys(simulated) == keys(real)
    assert simulated["usage"] == real["usage"]
    assert headers["Content-Type"] == "application/json"
    assert headers["Transfer-Encoding"] == "chunked"


@pytest.mark.parametrize(
    ("recording", "status", "kind"),
    [
        ("ds-err-400-context-1m-octetstream", 400, "application/octet-stream"),
        ("ds-err-402-insufficient-balance", 402, "application/json"),
        ("ds-err-422-plain-text", 422, "text/plain; charset=utf-8"),
        ("ds-err-503-too-busy", 503, "application/json"),
    ],
)
def test_errors_are_those_that_were_recorded(recording, status, kind):
    """Status, content type and body of an error are the recorded ones, byte for byte, with a true content-length."""
    got, headers, body = answer(chat(), X_Simulator_Behaviour=f"error-{status}")
    assert (got, headers["Content-Type"], body) == (status, kind, recorded(recording))
    assert int(headers["Content-Length"]) == len(body)


def test_a_bad_key_is_refused_as_recorded():
    """401 has the recorded body but for the last characters of the key."""
    status, _, body = answer(chat(), X_Simulator_Behaviour="error-401")
    real = json.loads(recorded("ds-err-401-bad-key"))
    real["error"]["message"] = real["error"]["message"].replace("****-key", "****0000")
    assert (status, json.loads(body)) == (401, real)


@pytest.mark.parametrize("status", [429, 500])
def test_errors_never_recorded_have_the_same_shape(status):
    """429 and 500 carry message, type, param and code as the others do."""
    got, _, body = answer(chat(), X_Simulator_Behaviour=f"error-{status}")
    assert (got, list(json.loads(body)["error"])) == (status, ["message", "type", "param", "code"])


def test_keep_alives_look_as_recorded():
    """A stream begins with the comment of the recording, a body with empty lines before its JSON."""
    _, _, stream = answer(streamed(), X_Simulator_Behaviour="keepalive")
    assert recorded("ds-chat-keepalive-stream-1").startswith(b": keep-alive\n\ndata: {")
    assert stream.startswith(b": keep-alive\n\n")
    _, _, body = answer(chat(), X_Simulator_Behaviour="keepalive")
    assert body.startswith(b"\n")
    assert json.loads(body)["usage"]


def test_headers_are_those_of_recorded_answers():
    """A stream says what it is, is not to be cached, carries a trace id and no content-encoding."""
    _, headers, _ = answer(streamed())
    assert headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert headers["Cache-Control"] == "no-cache"
    assert headers["Transfer-Encoding"] == "chunked"
    assert len(headers["x-ds-trace-id"]) == 32
    assert "Content-Encoding" not in headers


@pytest.mark.parametrize(("tokens", "unsent"), [("0,10,0,20", 0), ("0,10,7,20", 1), ("0,10,7,1", 1)])
def test_one_delta_is_one_token(tokens, unsent):
    """Deltas with text are as many as completion tokens, but for the one that ends the thinking."""
    _, _, body = answer(streamed(), X_Simulator_Tokens=tokens)
    events, _ = chunks(body)
    deltas = [event["choices"][0]["delta"] for event in events]
    usage = events[-1]["usage"]
    assert sum(bool(delta.get("content") or delta.get("reasoning_content")) for delta in deltas) == (
        usage["completion_tokens"] - unsent
    )
    reasoning = usage.get("completion_tokens_details", {"reasoning_tokens": 0})["reasoning_tokens"]
    assert sum(bool(delta.get("reasoning_content")) for delta in deltas) == reasoning


def test_max_tokens_cuts_inside_the_thinking():
    """A completion of 8 tokens is 7 of reasoning and the one that ends it, without content, as recorded."""
    _, _, body = answer(streamed(max_tokens=8), X_Simulator_Behaviour="plain")
    events, _ = chunks(body)
    last = events[-1]
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 8
    if last["usage"]["completion_tokens_details"]["reasoning_tokens"] == 7:
        assert not any(event["choices"][0]["delta"]["content"] for event in events)


def test_fill_in_the_middle_has_the_recorded_keys_and_usage_at_its_end():
    """FIM events have their own order of keys; the last one carries the usage; it never thinks."""
    body = {"model": "deepseek-flash", "prompt": "def f(", "stream": True}

    async def talk():
        async with running() as client:
            return [
                await client.post(asked, path=path, X_Simulator_Tokens="0,5,2,4")
                for asked in (body, {**body, "stream": False})
                for path in ("/completions", "/beta/completions")
            ]

    answers = asyncio.run(talk())
    events, done = chunks(answers[0][2])
    assert done
    assert list(events[0]) == ["id", "choices", "created", "model", "system_fingerprint", "object"]
    assert list(events[0]["choices"][0]) == ["text", "index", "logprobs", "finish_reason"]
    assert events[-1]["usage"]["completion_tokens"] == 6 == sum(bool(e["choices"][0]["text"]) for e in events)
    assert "completion_tokens_details" not in json.loads(answers[2][2])["usage"]


LONG_PROMPTS = """
[[models]]
names = ["long-prompts"]
served = "long-prompts"
unpriced = true
prompt_tokens = 5_000
"""


def test_a_prompt_may_be_billed_as_more_than_the_worst_case_of_its_bytes():
    """Its size is the scenario's, whatever was sent: docs/budgets.md says that a worst case does not hold here."""
    body = chat("long-prompts", max_tokens=1)

    async def talk():
        async with running(quick(LONG_PROMPTS)) as client:
            return await client.post(body)

    prompt = json.loads(asyncio.run(talk())[2])["usage"]["prompt_tokens"]

    assert prompt > len(json.dumps(body)) + ADDED_TOKENS


def test_models_and_balance():
    """`/models` lists the listed names; a balance is text with two decimals."""

    async def talk():
        async with running() as client:
            return await client.get("/models"), await client.get("/user/balance")

    models, balance = asyncio.run(talk())
    assert [row["id"] for row in json.loads(models[2])["data"]] == ["deepseek-flash", "odd-price"]
    assert json.loads(balance[2]) == {
        "is_available": True,
        "balance_infos": [
            {"currency": "USD", "total_balance": "100.50", "granted_balance": "0.50", "topped_up_balance": "100.00"}
        ],
    }
