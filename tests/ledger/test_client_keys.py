import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.ledger.client_keys import ClientKey, Known, added, fits, known_from, lacking, revoked, together
from proxy.usage import Purpose


def key(number=1, **changes):
    fields = {
        "id": f"key{number:05}",
        "app": "team-a",
        "digest": f"{number:064x}",
        "hashed_with": "secret-one",
        "last_four": "wxyz",
        "created_s": 1000.0 + number,
    }
    return ClientKey(**{**fields, **changes})


ids = st.integers(0, 4)
changes = st.lists(
    st.one_of(
        ids.map(lambda number: added(key(number))),
        st.tuples(ids, st.floats(1, 100)).map(lambda one: revoked(key(one[0]).id, one[1])),
    ),
    max_size=12,
)


@given(one=changes, other=changes, data=st.data())
def test_the_order_of_replays_does_not_matter(one, other, data):
    """Nor how often anything is replayed, nor where it was first."""
    known = known_from(one + other)
    shuffled = data.draw(st.permutations(one + other + one))

    assert known_from(shuffled) == known
    assert together(known_from(one), known_from(other)) == known
    assert together(known, known_from(other)) == known


@given(one=changes, other=changes)
def test_a_revoked_key_opens_nothing(one, other):
    """Wherever its revocation was, before or behind its making."""
    known = together(known_from(one), known_from(other))
    dates = {change.id for change in one + other if change.kind == "revoke"}

    assert not {one.id for one in known.active(0.0)} & dates


@given(one=changes, other=changes)
def test_what_is_lacking_makes_them_equal(one, other):
    """Told what they lack, they know what both know; of dates each keeps its own."""
    ours, theirs = known_from(one), known_from(other)
    missing = lacking(theirs, ours)
    told = Known({**theirs.keys, **missing.keys}, {**theirs.revoked, **missing.revoked})
    both = together(ours, theirs)

    assert told.keys == both.keys
    assert told.revoked.keys() == both.revoked.keys()
    assert lacking(told, ours).is_empty


def test_a_field_of_a_later_release_makes_a_key_unreadable():
    """It may be a limit: refusing is the safe side."""
    later = msgspec.json.encode({**msgspec.to_builtins(key()), "networks": ["10.0.0.0/8"]})

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(later, type=ClientKey)
    full = key(models=("a*",), purposes=(Purpose.SHADOW,), requests_per_minute=5, budgets=("b",), note="n")
    assert msgspec.json.decode(msgspec.json.encode(full), type=ClientKey) == full


@pytest.mark.parametrize(("expires_s", "at_s", "expired"), [(0.0, 9e9, False), (10.0, 9.99, False), (10.0, 10.0, True)])
def test_a_key_ends_at_its_second(expires_s, at_s, expired):
    assert key(expires_s=expires_s).expired(at_s) is expired


@pytest.mark.parametrize(
    ("name", "pattern", "fitting"),
    [
        ("deepseek-flash", "deepseek-flash", True),
        ("deepseek-flash", "deepseek-*", True),
        ("deepseek-flash", "*", True),
        ("deepseek-flash", "*flash", True),
        ("deepseek-flash", "d*k-*h", True),
        ("deepseek-flash", "*seek*", True),
        ("deepseek-flash", "deepseek", False),
        ("deepseek-flash", "*pro*", False),
        ("ab", "ab*b", False),
        ("aXb", "a*X*X*b", False),
        ("deepseek-flash", "DEEPSEEK-*", False),
        ("a", "[a]", False),
        ("a.b", "a?b", False),
        ("", "*", True),
    ],
)
def test_a_star_stands_for_anything(name, pattern, fitting):
    """And nothing else is special."""
    assert fits(name, [pattern]) is fitting
