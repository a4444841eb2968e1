"""Reads the catalog that comes with the package. The one place where its files are opened; parsing them is `pricing`'s."""

from importlib import resources
from typing import Final

from proxy.pricing.catalog import Catalog, parse_catalog

_FILES: Final = ("versions.toml", "prices.toml")


def builtin_catalog() -> Catalog:
    """The versions and prices known to this release. Raises CatalogError, OSError."""
    folder = resources.files("proxy.pricing")
    return parse_catalog({name: folder.joinpath(name).read_text("utf-8") for name in _FILES})
