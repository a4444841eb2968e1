"""How far a journal was applied, beside it on the disk."""

import pytest

from proxy.ledger.watermark import YOUNG_S, Applied, Watermark


def test_what_was_written_is_read_back(tmp_path):
    """The last word counts, and a file that is not there says nothing."""
    watermark = Watermark(tmp_path)
    before = watermark.read()
    watermark.write(Applied(1000, 5, 2000))
    watermark.write(Applied(1000, 12345678, 2001))

    assert before == Applied()
    assert watermark.read() == Applied(1000, 12345678, 2001)
    assert (tmp_path / "applied").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", range(73))
def test_a_torn_watermark_says_nothing(tmp_path, cut):
    """Too little is asked of Redis again; too much would be lost."""
    watermark = Watermark(tmp_path)
    watermark.write(Applied(1000, 12345678, 2001))
    file = tmp_path / "applied"
    file.write_bytes(file.read_bytes()[:cut])

    assert watermark.read() in (Applied(), Applied(1000, 12345678, 2001))
    assert cut >= 71 or watermark.read() == Applied()


@pytest.mark.parametrize(("at_s", "known"), [(1000, 0), (999 + YOUNG_S, 0), (1000 + YOUNG_S, 1000)])
def test_a_young_history_is_not_relied_on(at_s, known):
    """A Redis that crashed soon after its first start may have lost its epoch with the rest."""
    assert Applied(1000, 5, at_s).known_epoch == known
