import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metering.request import MAX_PLAIN_BYTES, RequestFacts, api_of, read_request
from proxy.usage import LABEL_CHARACTERS, Api

POSTED = {
    "/chat/completions": Api.CHAT,
    "/v1/chat/completions": Api.CHAT,
    "/beta/chat/completions": Api.CHAT,
    "/chat/completions/": Api.CHAT,
    "/completions": Api.FIM,
    "/beta/completions": Api.FIM,
    "/v1/completions": Api.FIM,
    "/responses": Api.RESPONSES,
    "/v1/responses": Api.RESPONSES,
    "/anthropic/v1/messages": Api.ANTHROPIC,
    "/models": Api.MODELS,
    "/user/balance": Api.BALANCE,
    "/files": Api.FILES,
    "/v1/files": Api.FILES,
    "/files/file-api-1": Api.FILES,
    "/": Api.OTHER,
    "": Api.OTHER,
    "/v1": Api.OTHER,
    "/v1/": Api.OTHER,
    "//chat/completions": Api.CHAT,
    "/openai/v1/chat/completions": Api.CHAT,
    "/openai/deployments/my-r1/chat/completions": Api.CHAT,
    "/model/us.deepseek.r1-v1%3A0/converse": Api.CHAT,
    "/api/v1/messages": Api.ANTHROPIC,
    "/v1/threads/t1/messages": Api.OTHER,
    "/v1chat/completions": Api.FIM,
    "/chat/completions/x": Api.OTHER,
    "/Chat/Completions": Api.OTHER,
    "/filesystem": Api.OTHER,
    "/responses/r1": Api.OTHER,
    "/anthropic/v1/messages/count_tokens": Api.OTHER,
    "/dashboard/billing": Api.OTHER,
}


@pytest.mark.parametrize(("path", "api"), POSTED.items())
def test_the_dialect_of_a_path(path, api):
    """The end of a path tells the dialect; what a host puts before it means nothing."""
    assert api == api_of("POST", path)


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "HEAD", "DELETE", "PUT"])
def test_only_a_post_asks_a_model(method):
    """The other methods cost no tokens on the paths that do."""
    metered = ("/chat/completions", "/completions", "/responses", "/anthropic/v1/messages")

    assert {api_of(method, path) for path in metered} == {Api.OTHER}
    assert [api_of(method, path) for path in ("/models", "/files/x")] == [Api.MODELS, Api.FILES]


def test_a_request_gives_model_stream_and_size():
    """The few things the record keeps; the rest of the body is passed over."""
    body = b'{"messages":[{"role":"user","content":"words"}],"model":"deepseek-flash","stream":true}'

    assert RequestFacts(Api.CHAT, "deepseek-flash", True, len(body)) == read_request(Api.CHAT, body)


@pytest.mark.parametrize(
    ("body", "model", "streamed"),
    [
        (b'{"model":"m"}', "m", False),
        (b'{"model":"m","stream":false}', "m", False),
        (b'{"model":"m","stream":null}', "m", False),
        (b'{"model":"m","stream":"yes"}', "m", False),
        (b'{"model":"m","stream":1}', "m", False),
        (b'{"model":"m","stream":{"a":[]}}', "m", False),
        (b'\n {"model":"m","stream":true} \n', "m", True),
        (b'{"stream":true}', "", True),
        (b'{"model":7,"stream":true}', "", False),
        (b'{"model":null}', "", False),
        (b"", "", False),
        (b"not JSON", "", False),
        (b'["model"]', "", False),
        (b'{"model":"m"', "", False),
        (b'{"model":"\xff"}', "", False),
        (b"\xff\xfe", "", False),
        (b'{"model":"a","model":"b"}', "b", False),
    ],
)
def test_a_body_that_cannot_be_read_asks_for_no_model(body, model, streamed):
    """Nothing is refused here: what cannot be read is left empty, an odd `stream` does not hide the model."""
    assert RequestFacts(Api.CHAT, model, streamed, len(body)) == read_request(Api.CHAT, body)


def test_a_body_nested_without_measure_is_one_that_cannot_be_read():
    """Ten thousand brackets do not stop a request on its way."""
    body = b'{"model":"m","messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

    assert read_request(Api.CHAT, body).body_bytes == len(body)


def test_a_huge_body_is_read():
    """Size alone is no reason not to know the model."""
    body = b'{"messages":"' + b"x" * 20_000_000 + b'","model":"m","stream":true}'

    assert RequestFacts(Api.CHAT, "m", True, len(body)) == read_request(Api.CHAT, body)


def test_a_request_that_asks_no_model_is_not_read():
    """Of a file that goes up only the size is kept."""
    assert RequestFacts(Api.FILES, "", False, 13) == read_request(Api.FILES, b'{"model":"m"}')


@pytest.mark.parametrize(
    ("model", "label"),
    [
        ("deepseek-flash", "deepseek-flash"),
        ("a\\nb", "a?b"),
        ("a\\u0000\\u202eb", "a??b"),
        ("模型 é", "模型 é"),
        ("x" * 300, "x" * 128),
    ],
)
def test_a_model_is_fit_to_be_a_label(model, label):
    """What a client sends as a name is cut and cleaned, never refused."""
    assert label == read_request(Api.CHAT, f'{{"model":"{model}"}}'.encode()).model


@given(body=st.binary(max_size=80), method=st.sampled_from(["POST", "GET"]), path=st.sampled_from([*POSTED]))
def test_no_request_makes_the_reading_raise(body, method, path):
    """Any bytes give facts with a model that may stand in a metric."""
    facts = read_request(api_of(method, path), body)

    assert facts.body_bytes == len(body)
    assert facts.model.isprintable()
    assert len(facts.model) <= LABEL_CHARACTERS


PLAIN = b'{"model":"deepseek-flash","stream":true,"messages":[]}'


@pytest.mark.parametrize(
    ("body", "encoding"), [(gzip.compress(PLAIN), "gzip"), (zlib.compress(PLAIN), "deflate"), (PLAIN, "identity")]
)
def test_a_compressed_request_is_read(body, encoding):
    """The model counts, however the client sent it; the size is that of the text."""
    assert RequestFacts(Api.CHAT, "deepseek-flash", True, len(PLAIN)) == read_request(Api.CHAT, body, encoding)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (PLAIN, "gzip"),
        (gzip.compress(PLAIN)[:20], "gzip"),
        (b"\x0b\x02\x80", "br"),
        (gzip.compress(b'{"model":"m"' + b" " * (MAX_PLAIN_BYTES + 1) + b"}"), "gzip"),
    ],
)
def test_a_compressed_request_that_cannot_be_read_is_taken_as_it_is(body, encoding):
    """Damaged, in an encoding we do not know, or a bomb: relayed as it is. One that is plain all the same is read."""
    model = "deepseek-flash" if body is PLAIN else ""

    assert read_request(Api.CHAT, body, encoding).model == model


@pytest.mark.parametrize(
    ("path", "body", "model"),
    [
        ("/model/us.deepseek.r1-v1%3A0/converse", b'{"messages":[]}', "us.deepseek.r1-v1:0"),
        ("/openai/deployments/my-r1/chat/completions", b"{}", "my-r1"),
        ("/openai/deployments/my-r1/chat/completions", b'{"model":"said"}', "said"),
        ("/chat/completions", b"{}", ""),
        ("/model/converse", b"{}", ""),
    ],
)
def test_a_model_may_stand_in_the_path(path, body, model):
    """Bedrock and Azure name it there; the body goes before."""
    assert read_request(Api.CHAT, body, path=path).model == model
