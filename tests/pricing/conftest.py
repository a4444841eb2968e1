import pytest
from pricing.given import SMALL, shipped_texts

from proxy.pricing.catalog import Catalog, parse_catalog


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    """The shipped catalog."""
    return parse_catalog(shipped_texts())


@pytest.fixture(scope="session")
def small() -> Catalog:
    """A catalog of one version, with a window over midnight and a price without a cache tier."""
    return parse_catalog(SMALL)
