import pytest
from metering.counting import PACKAGE, real

from proxy import vocabulary_files
from proxy.vocabulary_files import load_tokenizer

CACHE = f"vocabulary-{PACKAGE.version}.msgpack"
TEXT = "Four, 四。"


def test_the_first_start_keeps_what_it_built(tmp_path):
    """One file, whole; the next one reads it and never looks at the package's."""
    first = load_tokenizer(tmp_path)
    kept = (tmp_path / CACHE).read_bytes()

    assert [path.name for path in tmp_path.iterdir()] == [CACHE]
    assert len(kept) < 1_500_000
    assert first.encode(TEXT) == real().encode(TEXT)


def test_the_cache_is_read_instead_of_the_package(tmp_path, monkeypatch):
    """What was built once is not built again."""
    load_tokenizer(tmp_path)
    monkeypatch.setattr(vocabulary_files, "tokens_of", lambda _: pytest.fail("built again"))

    assert load_tokenizer(tmp_path).encode(TEXT) == real().encode(TEXT)


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_a_damaged_cache_is_built_anew(tmp_path, damage):
    """Cut, overwritten or flipped: it is told by its digest and replaced."""
    load_tokenizer(tmp_path)
    kept = (tmp_path / CACHE).read_bytes()
    (tmp_path / CACHE).write_bytes(kept[:-1] + b"\x00" if damage is None else damage)

    assert load_tokenizer(tmp_path).encode(TEXT) == real().encode(TEXT)
    assert (tmp_path / CACHE).read_bytes() == kept


def test_a_disk_that_takes_nothing_costs_only_time(tmp_path):
    """The folder is not there: the tokenizer is, and nothing is left behind."""
    assert load_tokenizer(tmp_path / "nowhere").count(TEXT) > 0
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_told(tmp_path, monkeypatch):
    """The error names it; estimates then go by size."""
    monkeypatch.setattr(vocabulary_files, "_PACKAGE", "no-such-package")

    with pytest.raises(ValueError, match="no-such-package is not installed"):
        load_tokenizer(tmp_path)
