import pytest

from proxy.console.access import Access, access

NAMES = frozenset({"console.example", "10.0.0.7"})
TOKEN = "t0ken"


def ask(host="127.0.0.1:8401", *, path="/metrics", origin=None, authorization=None, names=NAMES, token=""):
    return access(path, host, origin, authorization, names=names, token=token)


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8401", True),
        ("127.0.0.1", True),
        ("localhost:8401", True),
        ("LOCALHOST", True),
        ("[::1]:8401", True),
        ("[::1]", True),
        ("console.example:8401", True),
        ("Console.Example", True),
        ("10.0.0.7:8401", True),
        ("", False),
        (":8401", False),
        ("evil.example", False),
        ("console.example.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.8", False),
        ("[::2]", False),
        ("[::1", True),
        ("\udcff", False),
    ],
)
def test_only_our_own_names_are_answered_to(host, known):
    """A page that has our address under a name of its own is refused."""
    assert (Access.FULL if known else Access.WRONG_HOST) is ask(host)


@pytest.mark.parametrize(
    ("origin", "known"),
    [
        (None, True),
        ("http://127.0.0.1:8401", True),
        ("https://console.example", True),
        ("http://[::1]:8401", True),
        ("http://evil.example", False),
        ("null", False),
        ("", False),
        ("127.0.0.1", False),
    ],
)
def test_a_page_of_another_origin_is_refused(origin, known):
    """Where a browser says where a request comes from, it has to be from us; also with a good token."""
    assert (Access.FULL if known else Access.WRONG_HOST) is ask(origin=origin)
    assert (Access.FULL if known else Access.WRONG_HOST) is ask(
        origin=origin, token=TOKEN, authorization=f"Bearer {TOKEN}"
    )


@pytest.mark.parametrize(
    ("authorization", "good"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer  {TOKEN} ", True),
        (None, False),
        ("", False),
        (TOKEN, False),
        ("Bearer", False),
        ("Bearer ", False),
        ("Bearer t0ke", False),
        (f"Bearer {TOKEN}x", False),
        (f"Basic {TOKEN}", False),
        ("Bearer t0kén", False),
        ("Bearer \udcff", False),
    ],
)
def test_the_token_opens(authorization, good):
    """Where a token is set, only it opens; the health paths answer without it, and give no detail."""
    asked = {"authorization": authorization, "token": TOKEN}

    assert (Access.FULL if good else Access.WRONG_TOKEN) is ask(**asked)
    assert (Access.FULL if good else Access.HEALTH_ONLY) is ask(path="/readyz", **asked)
    assert (Access.FULL if good else Access.HEALTH_ONLY) is ask(path="/healthz", **asked)


def test_without_a_token_none_is_asked_for():
    """A console on loopback is open to this machine."""
    assert ask() is Access.FULL
    assert ask(authorization="Bearer anything") is Access.FULL


def test_a_wrong_host_learns_nothing():
    """The host is looked at before the path and the token."""
    assert ask("evil.example", path="/healthz", token=TOKEN, authorization=f"Bearer {TOKEN}") is Access.WRONG_HOST


def test_a_configured_name_may_be_spelt_in_any_case():
    """Host names have no case, in the settings neither."""
    assert ask("console.example", names=frozenset({"Console.Example"})) is Access.FULL
