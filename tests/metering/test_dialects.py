"""What hosts and gateways do to the dialects, beyond what the cassettes hold."""

import json

import pytest
from metering.given import read, read_however_cut

from proxy.usage import Api, Missing, TokenUsage


def events(*documents, end=b"\n\n"):
    return b"".join(b"data: " + json.dumps(document).encode() + end for document in documents)


def start(**usage):
    return {"type": "message_start", "message": {"model": "m", "content": [], "usage": {"output_tokens": 0, **usage}}}


def delta(**usage):
    return {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}


READ, CREATED = "cache_read_input_tokens", "cache_creation_input_tokens"


@pytest.mark.parametrize(
    ("first", "last", "usage"),
    [
        ({"input_tokens": 38, READ: 64}, {"input_tokens": 38, READ: 64, "output_tokens": 9}, (64, 38, 0, 9)),
        ({"input_tokens": 38, READ: 64}, {"output_tokens": 9}, (64, 38, 0, 9)),
        ({"input_tokens": 38, READ: 64}, {"input_tokens": 0, READ: 0, "output_tokens": 9}, (64, 38, 0, 9)),
        ({"input_tokens": 38, READ: 64}, {"input_tokens": 38, "output_tokens": 9}, (64, 38, 0, 9)),
        ({"input_tokens": 0}, {"input_tokens": 38, "output_tokens": 9}, (0, 38, 0, 9)),
        ({"input_tokens": 1000}, {"input_tokens": 200, READ: 800, "output_tokens": 9}, (800, 200, 0, 9)),
        ({"input_tokens": 1000}, {"input_tokens": 0, READ: 1000, "output_tokens": 9}, (1000, 0, 0, 9)),
        ({"input_tokens": 5, CREATED: 3}, {"output_tokens": 9.0}, (0, 8, 0, 9)),
    ],
)
def test_an_anthropic_usage_is_put_together_and_counted_once(first, last, usage):
    """The input is said once or twice, split or not, at the start or the end; it is never counted twice."""
    body = events(start(**first), delta(**last), {"type": "message_stop"})

    assert read_however_cut(body, Api.ANTHROPIC)["report"].usage == TokenUsage(*usage)


@pytest.mark.parametrize("content", ["", None, [], {"a": 1}, [{"type": "text", "text": 5}]])
def test_odd_content_does_not_cost_an_anthropic_usage(content):
    """A gateway fills fields we do not need with what it likes."""
    head = {"type": "message_start", "message": {"model": "m", "content": content, "usage": {"input_tokens": 5}}}
    reading = read([events(head, delta(output_tokens=3), {"type": "message_stop"})], Api.ANTHROPIC)

    assert (reading["report"].usage, reading["served_model"]) == (TokenUsage(0, 5, 0, 3), "m")


@pytest.mark.parametrize(
    "odd", [{"incomplete_details": "x"}, {"incomplete_details": []}, {"status": 5}, {"model": None}]
)
def test_odd_fields_do_not_cost_a_responses_usage(odd):
    """The usage is what counts."""
    response = {"usage": {"input_tokens": 5, "output_tokens": 3}, "model": "m", "status": "completed", **odd}
    reading = read([events({"type": "response.completed", "response": response})], Api.RESPONSES)

    assert (reading["report"].usage, reading["ended"]) == (TokenUsage(0, 5, 0, 3), True)


CHUNK = {"choices": [{"delta": {"content": "a"}}]}
USAGE = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 200}}


@pytest.mark.parametrize("documents", [200, 3])
def test_events_that_end_with_one_line_feed_are_told_apart(documents):
    """Some hosts leave the blank line out: by the grammar all of it is one event; we take its documents one by one."""
    body = events(*[CHUNK] * documents, USAGE, end=b"\n") + b"data: [DONE]\n"
    reading = read_however_cut(body)

    assert (reading["answer_deltas"], reading["report"].usage.completion, reading["ended"]) == (documents, 200, True)


def test_documents_in_lines_are_told_apart_however_many():
    """A JSON body of lines, one document each."""
    body = b"\n".join(json.dumps(one).encode() for one in [*[CHUNK] * 500, USAGE])

    assert read([body])["report"].usage.completion == 200


@pytest.mark.parametrize("first", [{"type": "ping"}, {"error": {"message": "x"}}, {"object": None}, {"type": 5}])
def test_a_first_document_that_says_nothing_leaves_the_path_to_decide(first):
    """A keep-alive in JSON, or an error: what follows is still of the dialect that was asked."""
    assert read([events(first, USAGE)])["report"].usage.completion == 200
    anthropic = read([events(first, start(input_tokens=5), delta(output_tokens=3))], Api.ANTHROPIC)
    assert anthropic["report"].usage == TokenUsage(0, 5, 0, 3)


@pytest.mark.parametrize("api", [Api.CHAT, Api.ANTHROPIC, Api.RESPONSES])
def test_half_a_character_does_not_cost_a_document(api):
    """A host that cuts its text by UTF-16 units or bytes: the document is read with U+FFFD in its place."""
    said = {
        Api.CHAT: b'{"choices":[{"delta":{"content":"%b"}}]}',
        Api.ANTHROPIC: b'{"type":"content_block_delta","index":0,"delta":{"text":"%b"}}',
        Api.RESPONSES: b'{"type":"response.output_text.delta","delta":"%b"}',
    }[api]
    for half in (rb"\ud83d", rb"\ude00", b"\xf0\x9f"):
        reading = read([b"data: " + said % half + b"\n\n"], api)
        assert (reading["answer_deltas"], reading["answer"], reading["fault"]) == (1, "\ufffd", None)


def test_a_huge_spoilt_body_is_not_looked_at_twice():
    """Beyond a megabyte a second look would hold up every stream of the worker."""
    assert read([b'{"a":"' + b"x" * 2_000_000 + b'"} {"usage":{}}'])["fault"] is Missing.BROKEN_USAGE


def test_calls_share_one_bound():
    """256 calls of two megabytes each are no answer; what is kept of all of them together is bounded."""
    piece = "x" * 500_000
    call = {"choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": piece}}]}}]}
    documents = []
    for index in range(20):
        call["choices"][0]["delta"]["tool_calls"][0]["index"] = index
        documents.append(events(call))

    assert sum(len(arguments) for _, arguments in read(documents)["calls"]) <= 2 * 1024 * 1024
