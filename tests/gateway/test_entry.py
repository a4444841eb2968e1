"""The two entries, on plain values."""

import pytest
from gateway.test_client_keys import KEY_ID, SECRET, TEXT, key, known

from proxy.errors import KeysUnavailableError, RelayError
from proxy.gateway.client_keys import Presented
from proxy.gateway.entry import Asking, Keys, ManagedEntry, OpenEntry
from proxy.ledger.client_keys import Known
from proxy.metering.request import read_request
from proxy.usage import Api, Purpose

SHOWN = Presented("POST", "/chat/completions", (f"Bearer {TEXT}",), "somebody-else", None)
FLASH = b'{"model":"deepseek-flash"}'


def managed(found=None, *, usable=True):
    taken = []
    entry = ManagedEntry(Keys(lambda: found or known(), lambda: usable, taken.append), SECRET, (), lambda: 2.0)
    return entry, taken


def asking(body=FLASH, version=None):
    return Asking(read_request(Api.CHAT, body), body, "", "/chat/completions", version)


def test_passthrough_lets_everybody_in_and_asks_for_nothing_more():
    """What would have to be read of the request is not even put together."""
    entry = OpenEntry(SECRET, {})
    admitted = entry.admit(Presented("POST", "/files", (), "team-b", "shadow"))

    assert admitted == ("team-b", "anonymous", None)
    assert entry.purpose(admitted, Presented("POST", "/x", purpose="shadow"), Api.FILES) is Purpose.SHADOW
    assert entry.purpose(admitted, Presented("POST", "/x", purpose="fun"), Api.FILES) is Purpose.PRODUCTION
    entry.allow(admitted, lambda: pytest.fail("asked"))
    assert entry.lease(admitted) is None


def test_who_pays_is_told_by_the_key_and_not_by_the_header():
    """Budgets that refuse go by it: a client that calls itself another app spends its own."""
    name = OpenEntry(SECRET, {}).admit(Presented("POST", "/x", ("Bearer sk-not-a-key",))).app
    entry = OpenEntry(SECRET, {name: "team-a"})

    admitted = entry.admit(Presented("POST", "/x", ("Bearer sk-not-a-key",), "team-b"))
    assert (admitted.app, admitted.payer) == ("team-b", "team-a")


def test_nobody_chooses_who_pays_by_showing_a_second_key():
    """The upstream might go by the other one. The same key twice is one key; without such a budget it is only a name."""
    two = Presented("POST", "/x", ("Bearer sk-made-up", "sk-real"))
    same = Presented("POST", "/x", ("Bearer sk-real", "sk-real"))

    with pytest.raises(RelayError, match="two different API keys"):
        OpenEntry(SECRET, {}, one_key=True).admit(two)
    assert OpenEntry(SECRET, {}, one_key=True).admit(same).payer.startswith("key-")
    assert OpenEntry(SECRET, {}).admit(two).payer.startswith("key-")


def test_managed_mode_goes_by_the_key():
    """The app is the key's, the place is asked for with the key."""
    entry, taken = managed()
    admitted = entry.admit(SHOWN)

    assert admitted == ("team-a", "team-a", key())
    assert entry.purpose(admitted, SHOWN, Api.CHAT) is Purpose.PRODUCTION
    entry.allow(admitted, asking)
    entry.lease(admitted)
    assert taken == [key()]
    assert entry.refusals == {}


@pytest.mark.parametrize(
    ("found", "usable", "shown", "asked", "code"),
    [
        (known(), False, SHOWN, asking, "keys_unavailable"),
        (Known(), True, SHOWN, asking, "invalid_api_key"),
        (Known(known().keys, {KEY_ID: 1.0}), True, SHOWN, asking, "revoked_api_key"),
        (known(), True, SHOWN._replace(path="/files"), asking, "path_not_open"),
        (known(), True, SHOWN._replace(purpose="fun"), asking, "purpose_not_allowed"),
        (known(models=("x",)), True, SHOWN, asking, "model_not_allowed"),
        (known(), True, SHOWN, lambda: asking(b"half"), "ambiguous_request"),
        (known(versions=("W",)), True, SHOWN, lambda: asking(version="V"), "version_not_allowed"),
    ],
)
def test_every_refusal_is_counted_once_by_its_code(found, usable, shown, asked, code):
    """Wherever it was decided."""
    entry, _ = managed(found, usable=usable)

    def ask():
        admitted = entry.admit(shown)
        entry.purpose(admitted, shown, Api.CHAT if "chat" in shown.path else Api.FILES)
        entry.allow(admitted, asked)

    with pytest.raises(RelayError) as raised:
        ask()
    assert raised.value.code == code
    assert entry.refusals == {code: 1}


def test_keys_that_may_not_decide_are_a_503():
    """Nobody is told that his key is unknown while that cannot be known."""
    entry, _ = managed(usable=False)

    with pytest.raises(KeysUnavailableError) as raised:
        entry.admit(SHOWN)
    assert (raised.value.status, raised.value.retry_after_s) == (503, 2)
