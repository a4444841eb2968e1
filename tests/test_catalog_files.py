import pytest
import structlog
from pricing.given import at
from test_cli import OWN

from proxy.catalog_files import LiveCatalog, builtin_catalog
from proxy.errors import CatalogError
from proxy.pricing.tariff import rate_at

NOW_S = at("2026-11-24T12:00:00Z")


def price_of(catalog):
    rate = rate_at(catalog, "my-r1", "USD", NOW_S)
    return rate and rate.nanos_per_million[2]


def test_a_changed_file_is_taken_over(tmp_path):
    """Without a restart; a file that did not change costs a look and no more."""
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    live = LiveCatalog(str(file))
    before = live.current
    live.look()
    assert live.current is before

    file.write_text(OWN.replace('"0.4"', '"0.5"'))
    live.look()

    assert (price_of(before), price_of(live.current)) == (400_000_000, 500_000_000)


def test_a_broken_file_is_refused_and_the_old_one_stays(tmp_path):
    """The log has row and reason; mended, the file is taken over."""
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    live = LiveCatalog(str(file))
    file.write_text(OWN.replace('"0.4"', '"much"'))
    with structlog.testing.capture_logs() as logs:
        live.look()
        live.look()

    assert price_of(live.current) == 400_000_000
    assert [(line["event"], "price 1 (my-r1-usd)" in line["reason"]) for line in logs] == [("catalog_refused", True)]

    file.write_text(OWN.replace('"0.4"', '"0.6"'))
    live.look()
    assert price_of(live.current) == 600_000_000


def test_a_file_that_goes_away_is_refused_too(tmp_path):
    """Losing negotiated prices silently would be a wrong bill."""
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    live = LiveCatalog(str(file))
    file.unlink()
    with structlog.testing.capture_logs() as logs:
        live.look()

    assert price_of(live.current) == 400_000_000
    assert [line["event"] for line in logs] == ["catalog_refused"]


def test_a_start_without_the_file_is_none(tmp_path):
    """The operator named it, so it is missed."""
    with pytest.raises(CatalogError, match=r"catalog_file .* cannot be read"):
        LiveCatalog(str(tmp_path / "nowhere.toml"))


def test_without_a_path_the_shipped_one_is_in_force():
    """Nothing to look at."""
    live = LiveCatalog("")
    live.look()

    assert live.current.versions.keys() == builtin_catalog().versions.keys()
