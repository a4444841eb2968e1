"""Our own bodies in the shapes of DeepSeek and of other hosts. A new case is two files in `tests/cassettes`."""

import gzip
import zlib

import pytest
from metering.given import cassettes, cuts, read, read_however_cut

CASES = list(cassettes())


@pytest.mark.parametrize(("body", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_cassette_gives_what_is_written_beside_it(body, expected):
    """One body, one reading, wherever the bytes are cut."""
    assert expected == readable(read_however_cut(body))


@pytest.mark.parametrize(("body", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_cassette_gives_the_same(body, expected, encoding, compress):
    """gzip and deflate are read like the plain body, wherever they are cut."""
    packed = compress(body)
    for pieces in ([packed], *cuts(packed)[::7]):
        assert expected == readable(read(pieces, content_encoding=encoding))


def readable(facts):
    """A reading as the expected files have it."""
    report = facts["report"]
    return {
        "usage": report and {kind.value: count for kind, count in report.usage.by_kind()},
        "violations": [rule.value for rule in report.violations] if report else [],
        "fault": facts["fault"] and facts["fault"].value,
        "deltas": {kind: facts[f"{kind}_deltas"] for kind in ("reasoning", "answer", "tool")},
        **{name: facts[name] for name in ("served_model", "fingerprint", "finish_reason", "streamed", "ended")},
    }
