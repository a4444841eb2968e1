"""Our own bodies in the shapes of DeepSeek and of other hosts. A new case is two files in `tests/cassettes`."""

import gzip
import zlib

import pytest
from metering.given import cassettes, cuts, read, read_however_cut

from proxy.usage import Api

CASES = list(cassettes())


@pytest.mark.parametrize(("body", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_cassette_gives_what_is_written_beside_it(body, expected):
    """One body, one reading, wherever the bytes are cut."""
    api = Api(expected.get("api", "chat"))

    assert expected == {
        name: value for name, value in readable(read_however_cut(body, api), api).items() if name in expected
    }


@pytest.mark.parametrize(("body", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_cassette_gives_the_same(body, expected, encoding, compress):
    """gzip and deflate are read like the plain body, wherever they are cut."""
    packed, api = compress(body), Api(expected.get("api", "chat"))
    for pieces in ([packed], *cuts(packed)[::7]):
        found = readable(read(pieces, api, content_encoding=encoding), api)

        assert expected == {name: value for name, value in found.items() if name in expected}


def readable(facts, api):
    """A reading as the expected files have it; the dialect and what was said stand only in those that are about it."""
    report = facts["report"]
    return {
        "usage": report and {kind.value: count for kind, count in report.usage.by_kind()},
        "violations": [rule.value for rule in report.violations] if report else [],
        "fault": facts["fault"] and facts["fault"].value,
        "deltas": {kind: facts[f"{kind}_deltas"] for kind in ("reasoning", "answer", "tool")},
        "api": api.value,
        "said": {
            "reasoning": facts["reasoning"],
            "answer": facts["answer"],
            "calls": [list(call) for call in facts["calls"]],
        },
        **{name: facts[name] for name in ("served_model", "fingerprint", "finish_reason", "streamed", "ended")},
    }
