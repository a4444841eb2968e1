import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.gateway.keys import ANONYMOUS, app_of

SECRET = b"0123456789abcdef" * 4
KEY = "sk-0123456789abcdef"


@pytest.mark.parametrize("stated", ["team-a", " team-a "])
def test_an_app_that_names_itself_has_that_name(stated):
    """What the client states goes before its key."""
    assert app_of(stated, f"Bearer {KEY}", SECRET) == "team-a"


@pytest.mark.parametrize(("stated", "credential"), [(None, None), ("", ""), ("  ", None)])
def test_without_a_name_and_a_key_an_app_is_anonymous(stated, credential):
    """Nothing to tell it by."""
    assert app_of(stated, credential, SECRET) == ANONYMOUS


@pytest.mark.parametrize("credential", [f"Bearer {KEY}", KEY, f"Bearer  {KEY} ", f"bearer {KEY}", f"BEARER {KEY}"])
def test_one_key_is_one_app(credential):
    """However the key is sent: as a bearer token, whose scheme has no case (RFC 9110, section 11.1), or as x-api-key."""
    assert app_of(None, KEY, SECRET) == app_of(None, credential, SECRET)


def test_the_name_is_keyed():
    """Another secret gives another name: without it nobody can try out keys."""
    assert app_of(None, KEY, SECRET) != app_of(None, KEY, SECRET[1:])
    assert app_of(None, KEY, SECRET) != app_of(None, KEY, b"")


def test_the_name_is_stable():
    """Replicas that share the secret, and later releases, give the same name."""
    assert app_of(None, KEY, SECRET) == "key-a5deaab3db"


def test_a_key_that_is_named_is_that_app():
    """By the name under which it was counted; what the client states goes before."""
    names = {"key-a5deaab3db": "team-b"}

    assert app_of(None, KEY, SECRET, names) == "team-b"
    assert app_of("team-a", KEY, SECRET, names) == "team-a"
    assert app_of(None, KEY + "x", SECRET, names).startswith("key-")


@given(
    key=st.text(st.characters(codec=None, exclude_categories=()), min_size=1, max_size=80),
    secret=st.binary(max_size=80),
)
def test_any_key_gives_a_short_name_without_it(key, secret):
    """`key-` and ten hex digits, whatever bytes the header held."""
    app = app_of(None, key, secret)

    assert re.fullmatch(r"key-[0-9a-f]{10}", app)
    assert len(key) < 5 or key not in app
