"""`/api/versions`: cost before and after a change, from the same counters that Prometheus sees."""

from ledger.given import field

from proxy.console.versions import versions_json
from proxy.ledger.answers import Change, Snapshot

CHANGE = Change("revision", "default", "m", "V", "V+r2", "fp_bbbbbbbbbb", 1_795_399_200.0)


def snapshot(totals):
    encoded = {field(*parts).encode(): str(value).encode() for parts, value in totals.items()}
    seen = {
        b'["V","m","fp_a","alias"]': b"1795399100.000 1795399300.500",
        b'["V","n","fp_a","alias"]': b"1795399000.000 1795399001.000",
    }
    return Snapshot(1_795_399_400.0, 1, encoded, {}, seen, ())


def of(version, requests, dollars_nano, tokens):
    place = ("default", version, "m")
    return {
        ("requests_total", *place, "chat", "complete"): requests,
        ("requests_total", *place, "chat", "upstream_error"): 5,
        ("cost_usd_total", *place, "output_answer", "reported"): dollars_nano,
        ("tokens_total", *place, "output_answer", "reported"): tokens,
    }


def test_cost_before_and_after_a_change():
    """Per answered request: errors cost nothing and would make both look cheap."""
    found = versions_json(snapshot({**of("V", 4, 4_000_000, 40), **of("V+r2", 2, 6_000_000, 60)}), [CHANGE])

    (change,) = found["changes"]
    assert change["first_seen"] == "2026-11-23T02:00:00.000Z"
    assert change["before"]["version"] == "V"
    assert change["before"]["cost_per_request"] == {"USD": "0.001"}
    assert change["after"]["version"] == "V+r2"
    assert change["after"]["cost_per_request"] == {"USD": "0.003"}
    assert change["after"]["tokens"]["output_answer"] == 60


def test_every_tag_is_listed_with_its_life():
    """First and last seen are those over all names."""
    (one,) = versions_json(snapshot(of("V", 4, 1, 1)), [])["versions"]

    assert (one["first_seen"], one["last_seen"]) == ("2026-11-23T01:56:40.000Z", "2026-11-23T02:01:40.500Z")
    assert (one["upstream"], one["version"], one["requests"]) == ("default", "V", 4)


def test_a_change_nothing_was_counted_for_is_shown_all_the_same():
    """The event comes a moment before the first record behind it is applied."""
    (change,) = versions_json(snapshot({}), [CHANGE])["changes"]

    assert change["after"]["requests"] == 0
    assert change["after"]["cost_per_request"] == {}
