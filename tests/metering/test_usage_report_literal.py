"""What a record keeps of a usage that broke a rule: its names and numbers, never a text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.metering.usage_report import LITERAL_CHARACTERS, literal_of


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b'{"prompt_tokens":"12"}', '{"prompt_tokens":"12"}'),
        (b'{"prompt_tokens":-1, "total_tokens" : 1.5e3}', '{"prompt_tokens":-1, "total_tokens" : 1.5e3}'),
        (b'{"prompt_tokens":"ten"}', '{"prompt_tokens":"…"}'),
        (b'{"note":"my \\"secret\\": 7"}', '{"note":"…"}'),
        (b'{"a secret as a name":1}', '{"…":1}'),
        (b'"secret', '"…"'),
        (b'{"a":["secret",null]}', '{"a":["…",null]}'),
        (b"\xff", "\ufffd"),
    ],
)
def test_names_and_numbers_stay(raw, kept):
    """An operator sees which field was odd, and how."""
    assert literal_of(raw) == kept


@given(st.dictionaries(st.text(), st.text() | st.integers()), st.integers(0, 200))
def test_no_text_survives(usage, cut):
    """Whatever stands in it, and wherever it breaks off: of a text only a number stays."""
    secret = "the secret of the patient"
    raw = json.dumps({**usage, "x": secret, secret: 1}).encode()
    for whole in (raw, raw[: max(len(raw) - cut, 0)]):
        assert "secret of" not in literal_of(whole)


def test_a_long_one_is_cut():
    """A usage is small; what is not is no usage."""
    assert len(literal_of(b"[" + b"1," * 10_000)) == LITERAL_CHARACTERS
