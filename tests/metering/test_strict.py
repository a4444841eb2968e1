import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metering.strict import AmbiguousBodyError, model_of

GOOD = b'{"model":"deepseek-flash","messages":[]}'


@pytest.mark.parametrize(
    "body",
    [
        GOOD,
        b' {\n\t"messages" : [ {"a":1,"a":2} ] , "model" : "deepseek-flash" }\r\n',
        b'{"mod\\u0065l":"deepseek-flash"}',
        b'{"model":"deepseek-flash","max_tokens":null,"stream":null}',
        b'{"model":"deepseek-flash","max_tokens":0,"n":1,"stream":true,"thinking":{"type":"enabled"}}',
        b'{"model":"deepseek-flash","a":"}","b":"\\"model\\":","c":{}}',
    ],
)
def test_what_can_be_read_in_one_way_only(body):
    """Fields in any order, with any space; what stands in a message decides nothing."""
    assert model_of(body) == "deepseek-flash"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        (b"", "no JSON object"),
        (b"null", "no JSON object"),
        (b'["model"]', "no JSON object"),
        (b"half", "no JSON object"),
        (GOOD[:-1], "no JSON object"),
        (GOOD + b"{}", "no JSON object"),
        (b"\xef\xbb\xbf" + GOOD, "no JSON object"),
        (b'{"model":"a","x":NaN}', "no JSON object"),
        (b'{"model":"a","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "no JSON object"),
        (b'{"model":"a","model":"a"}', "twice"),
        (b'{"model":"a","x":{"model":"c"},"model":"b"}', "twice"),
        (b'{"model":"a","mod\\u0065l":"b"}', "twice"),
        (b'{"model":"a","max_tokens":1,"max_tokens":12}', "twice"),
        (b'{"model":"a","max_tokens":12,"max_tokens":1}', "twice"),
        (
            b'{"a":{"x":1,"b":2},"a":123456,"model":"m","b":2}',
            "twice",
        ),  # the last value is as long as half of the first
        (b'{"model":"a","thinking":{"budget_tokens":1,"budget_tokens":2}}', "one of its objects holds a field twice"),
        (b'{"model":"a","Model":"b"}', "capitals"),
        (b'{"Model":"b"}', "capitals"),
        (b'{"model":"a","MAX_TOKENS":9}', "capitals"),
        (b"{}", "names no model"),
        (b'{"model":""}', "names no model"),
        (b'{"model":["a"]}', "names no model"),
        (b'{"model":"a\\u0000b"}', "names no model"),
        (json.dumps({"model": "a" * 129}).encode(), "names no model"),
        (b'{"model":"a","max_tokens":"9"}', "max_tokens is no whole number"),
        (b'{"model":"a","max_tokens":1.5}', "max_tokens is no whole number"),
        (b'{"model":"a","max_tokens":1e3}', "max_tokens is no whole number"),
        (b'{"model":"a","max_completion_tokens":-1}', "max_completion_tokens is no whole number"),
        (b'{"model":"a","n":true}', "n is no whole number"),
        (b'{"model":"a","stream":"yes"}', "stream"),
    ],
)
def test_what_may_be_read_in_two_ways_or_none(body, word):
    """Says which, and nothing of what stands there."""
    with pytest.raises(AmbiguousBodyError, match=word):
        model_of(body)


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
def test_a_compressed_body_is_not_read(encoding):
    """Somebody else's decompressor may make something else of it."""
    with pytest.raises(AmbiguousBodyError, match="compressed"):
        model_of(GOOD, encoding)
    assert model_of(GOOD, "identity")


def test_a_path_may_name_the_model():
    """Alone, or the same one."""
    assert model_of(b"{}", "", "my-r1") == "my-r1"
    assert model_of(b'{"model":"my-r1"}', "", "my-r1") == "my-r1"
    with pytest.raises(AmbiguousBodyError, match="than the path"):
        model_of(GOOD, "", "my-r1")


values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 99) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
names = st.text(st.characters(exclude_categories=("Cs",)), max_size=4)


@given(
    fields=st.lists(st.tuples(names, values), max_size=6),
    escaped=st.booleans(),
    spaces=st.sampled_from(["", " ", "\n\t "]),
)
def test_a_field_that_comes_twice_is_always_found(fields, escaped, spaces):
    """Held against a reader that keeps every pair; bodies with a field once each are read."""
    pairs = [("model", "m"), *fields]
    text = ",".join(f"{spaces}{json.dumps(k, ensure_ascii=escaped)}{spaces}:{json.dumps(v)}{spaces}" for k, v in pairs)
    body = f"{{{text}}}".encode("utf-8", "surrogatepass")
    twice = len({name for name, _ in pairs}) < len(pairs)
    said = _said(body)

    assert ("twice" in said) if twice else (said == "m" or "twice" not in said)


def _said(body):
    """The model, or what is wrong."""
    try:
        return model_of(body)
    except AmbiguousBodyError as error:
        return str(error)
