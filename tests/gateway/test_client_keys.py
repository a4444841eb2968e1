import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import AmbiguousRequestError, NotAllowedError, UnknownKeyError
from proxy.gateway.client_keys import (
    ALPHABET,
    Presented,
    check_open,
    check_request,
    check_version,
    id_of,
    new_key,
    purpose_for,
    recognised,
)
from proxy.gateway.keys import key_digest, secret_name
from proxy.ledger.client_keys import ClientKey, Known
from proxy.metering.request import RequestFacts, api_of, read_request
from proxy.usage import Purpose

SECRET = b"0123456789abcdef" * 4
KEY_ID, TEXT = new_key(random.Random(7).randrange)


def key(**changes):
    fields = {
        "id": KEY_ID,
        "app": "team-a",
        "digest": key_digest(TEXT, SECRET),
        "hashed_with": secret_name(SECRET),
        "last_four": TEXT[-4:],
        "created_s": 1.0,
    }
    return ClientKey(**{**fields, **changes})


def known(**changes):
    return Known({KEY_ID: key(**changes)})


def test_a_new_key_looks_like_one():
    """Named by its beginning; 24 characters nobody can guess, of 62 each: 142 bits."""
    assert re.fullmatch(r"dsm_[0-9A-Za-z]{8}_[0-9A-Za-z]{24}", TEXT)
    assert TEXT.startswith(f"dsm_{KEY_ID}_")
    assert len(set(ALPHABET)) == 62
    drawn = []
    new_key(lambda below: drawn.append(below) or 0)
    assert drawn == [62] * 32  # every character is drawn by itself


@pytest.mark.parametrize("credential", [f"Bearer {TEXT}", f"bearer  {TEXT} ", TEXT])
def test_a_key_is_recognised(credential):
    """As a bearer token or in x-api-key; twice the same is once."""
    assert recognised([credential], known(), SECRET, 2.0).app == "team-a"
    assert recognised([credential, TEXT, ""], known(), SECRET, 2.0).app == "team-a"


@pytest.mark.parametrize(
    ("credentials", "found", "secret", "code"),
    [
        ([], known(), SECRET, "invalid_api_key"),
        (["Bearer sk-not-a-key"], known(), SECRET, "invalid_api_key"),
        ([TEXT], Known(), SECRET, "invalid_api_key"),
        ([TEXT[:-1] + ("a" if TEXT[-1] != "a" else "b")], known(), SECRET, "invalid_api_key"),
        ([TEXT + "a"], known(), SECRET, "invalid_api_key"),
        ([TEXT + "\n"], known(), SECRET[1:], "invalid_api_key"),
        ([KEY_ID], known(), SECRET, "invalid_api_key"),
        ([TEXT], Known(known().keys, {KEY_ID: 1.0}), SECRET, "revoked_api_key"),
        ([TEXT], known(expires_s=2.0), SECRET, "expired_api_key"),
    ],
)
def test_a_key_that_opens_nothing(credentials, found, secret, code):
    """That it was revoked or has expired is told only to whoever shows the whole of it; nothing of it is said."""
    with pytest.raises(UnknownKeyError) as raised:
        recognised(credentials, found, secret, 2.0)

    assert (raised.value.status, raised.value.code) == (401, code)
    assert KEY_ID not in str(raised.value)
    stranger = TEXT[:-1] + ("a" if TEXT[-1] != "a" else "b")
    with pytest.raises(UnknownKeyError, match="does not know"):
        recognised([stranger], Known(known().keys, {KEY_ID: 1.0}), SECRET, 2.0)


@pytest.mark.parametrize("other", ["dsm_00000000_000000000000000000000000", "Bearer sk-not-a-key"])
def test_two_different_keys_are_refused(other):
    """Who asks would depend on which is read."""
    with pytest.raises(AmbiguousRequestError) as raised:
        recognised([TEXT, other], known(), SECRET, 2.0)
    assert raised.value.status == 400


@given(text=st.text(max_size=60))
def test_no_text_is_recognised_by_chance(text):
    with pytest.raises(UnknownKeyError):
        recognised([text], known(), SECRET, 2.0)


def test_credentials_are_never_shown():
    assert TEXT not in repr(Presented("POST", "/x", (TEXT,)))
    assert key().digest not in repr(key())


@pytest.mark.parametrize("text", [KEY_ID, f"dsm_{KEY_ID}", TEXT, f" {TEXT}\n"])
def test_whatever_names_a_key_has_its_id(text):
    """A key that was found somewhere can be revoked as it stands."""
    assert id_of(text) == KEY_ID
    assert id_of(text + "x") is None
    assert id_of("") is None


@pytest.mark.parametrize(
    ("purposes", "stated", "purpose"),
    [
        ((), None, "production"),
        ((), "shadow", "shadow"),
        ((), "  Validation ", "validation"),
        ((), "shadwo", None),
        (("validation",), None, "validation"),
        (("validation",), "", "validation"),
        (("validation", "shadow"), "shadow", "shadow"),
        (("validation",), "production", None),
    ],
)
def test_a_purpose_is_among_the_keys(purposes, stated, purpose):
    """Without a word it is the first of them; another one is refused, a misspelt one too."""
    one = key(purposes=tuple(map(Purpose, purposes)))
    if purpose is None:
        with pytest.raises(NotAllowedError) as raised:
            purpose_for(one, stated)
        assert (raised.value.status, raised.value.code) == (403, "purpose_not_allowed")
    else:
        assert purpose_for(one, stated) == purpose


OPEN = ["/chat/completions", "/v1/chat/completions", "//chat/completions", "/beta/completions", "/responses"]
OPEN += ["/anthropic/v1/messages", "/openai/deployments/deepseek-v4-pro/chat/completions", "/model/a%3A0/converse"]
CLOSED = ["/files", "/files/file-1", "/files/file-1/content", "/user/balance", "/", "/embeddings", "/responses/r-1"]
CLOSED += ["/user/balance/../chat/completions", "/chat/completions/..", "/user/balance/%2e%2e/chat/completions"]
CLOSED += ["/user/balance%2fchat/completions", "/user%2Fbalance/x/chat/completions", "/files/chat/completions"]
CLOSED += ["/%66iles/chat/completions", "/Files/chat/completions", "/x/%252e%252e/chat/completions"]
CLOSED += ["/chat/completions;/files", "/x\\..\\chat/completions", "/chat/completions%00", "/./chat/completions"]


def opens(method, path, *open_paths):
    try:
        check_open(method, path, api_of(method, path), open_paths)
    except NotAllowedError as error:
        return error.code != "path_not_open"
    return True


@pytest.mark.parametrize("path", OPEN)
def test_what_asks_a_model_is_open(path):
    assert opens("POST", path)
    assert not opens("DELETE", path)


@pytest.mark.parametrize("path", CLOSED)
def test_everything_else_is_not(path):
    """Others' files, the balance, and what a host may take for them."""
    assert not opens("POST", path)
    assert not opens("GET", path)


def test_models_may_be_read():
    assert opens("GET", "/v1/models")
    assert not opens("DELETE", "/v1/models")
    assert not opens("DELETE", "/files/models")


def test_an_operator_opens_more():
    """Path by path, or by its beginning; tricks stay out."""
    assert opens("POST", "/embeddings", "/embeddings")
    assert opens("DELETE", "/files/file-1", "/files*")
    assert not opens("GET", "/user/balance", "/files*")
    assert not opens("GET", "/files/../user/balance", "/files*")


CHAT = "/chat/completions"


def asks(one, body, path=CHAT, encoding=""):
    """None where it may, else the error's code."""
    request = read_request(api_of("POST", path), body, encoding, path)
    try:
        check_request(one, request, body, encoding, path)
    except (NotAllowedError, AmbiguousRequestError) as error:
        return error.code
    return None


@pytest.mark.parametrize(
    ("models", "body", "code"),
    [
        ((), b'{"model":"deepseek-flash"}', None),
        (("deepseek-*",), b'{"model":"deepseek-flash"}', None),
        (("deepseek-v4-pro",), b'{"model":"deepseek-flash"}', "model_not_allowed"),
        (("deepseek-flash",), b'{"model":"deepseek-v4-pro","model":"deepseek-flash"}', "ambiguous_request"),
        ((), b'{"model":"a","model":"b"}', "ambiguous_request"),
        ((), b"not json", "ambiguous_request"),
        ((), b"", "ambiguous_request"),
    ],
)
def test_models_are_checked_where_they_can_be_read(models, body, code):
    assert asks(key(models=models), body) == code


def test_a_compressed_body_is_refused():
    """Also for a key that may ask everything: the limits in it cannot be read."""
    assert asks(key(), b'{"model":"a"}', encoding="gzip") == "ambiguous_request"


def test_an_opened_path_keeps_to_the_models():
    """Where it names one; where nothing is restricted, it is nobody's business."""
    restricted = key(models=("deepseek-*",))

    assert asks(restricted, b'{"model":"deepseek-embed"}', "/embeddings") is None
    assert asks(restricted, b'{"model":"other"}', "/embeddings") == "model_not_allowed"
    assert asks(restricted, b"x", "/embeddings") == "ambiguous_request"
    assert asks(restricted, b"", "/embeddings") is None
    assert asks(key(), b"x", "/embeddings") is None
    assert asks(restricted, b"--boundary", "/files") is None
    assert asks(restricted, b"", "/models") is None


def test_a_model_in_the_path_counts():
    path = "/openai/deployments/my-r1/chat/completions"

    assert asks(key(models=("my-r1",)), b"{}", path) is None
    assert asks(key(models=("other",)), b"{}", path) == "model_not_allowed"
    assert asks(key(models=("other",)), b'{"model":"other"}', path) == "ambiguous_request"


@pytest.mark.parametrize(
    ("versions", "version", "allowed"),
    [
        ((), "V", True),
        (("V",), "V", True),
        (("V",), "V+r3", True),
        (("V-*",), "V-1", True),
        (("V",), "W", False),
        (("V",), None, True),
    ],
)
def test_a_version_that_is_known_before_is_checked(versions, version, allowed):
    """One nobody can know yet is counted as it turns out."""
    if allowed:
        check_version(key(versions=versions), version)
    else:
        with pytest.raises(NotAllowedError, match="W would answer") as raised:
            check_version(key(versions=versions), version)
        assert raised.value.code == "version_not_allowed"


def test_facts_and_strict_reading_agree():
    """A body that the two readers take for different models is refused."""
    request = RequestFacts(api_of("POST", CHAT), "something-else")

    with pytest.raises(AmbiguousRequestError):
        check_request(key(), request, b'{"model":"a"}', "", CHAT)
