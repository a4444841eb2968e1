"""Reads the catalog: what comes with the package, and the operator's own file over it, again whenever that changes.

The one place where its files are opened; parsing them is `pricing`'s. A file that cannot be used is refused whole, with row
and reason, and what was in force stays in force.
"""

from importlib import resources
from pathlib import Path
from typing import Final

import structlog

from proxy.errors import CatalogError
from proxy.pricing.catalog import Catalog, parse_catalog

_FILES: Final = ("versions.toml", "prices.toml")

LOOK_EVERY_S: Final = 2.0
"""How often the operator's file is looked at."""

log = structlog.get_logger(__name__)


def builtin_catalog() -> Catalog:
    """The versions and prices known to this release. Raises CatalogError, OSError."""
    return parse_catalog(_shipped())


def catalog_with(path: str) -> Catalog:
    """The catalog with the operator's own file over it; without a path the shipped one. Raises CatalogError."""
    return parse_catalog(_shipped(), {Path(path).name: _read(Path(path))} if path else {})


class LiveCatalog:
    """The catalog in force: `current`, and `look` to take a changed file over."""

    def __init__(self, path: str) -> None:
        """Raises CatalogError for a file that cannot be used: a start without it would price silently otherwise."""
        self._path = path
        self._seen = _stamp(path)
        self.current = catalog_with(path)

    def __repr__(self) -> str:
        return f"<LiveCatalog {self.current!r}>"

    def look(self) -> None:
        """Take the file over if it has changed and can be used; say so, or what is wrong with it."""
        stamp = _stamp(self._path)
        if not self._path or stamp == self._seen:
            return
        self._seen = stamp
        try:
            self.current = catalog_with(self._path)
        except CatalogError as error:
            log.error("catalog_refused", reason=str(error), in_force="the one before")
        else:
            log.info("catalog_reloaded", file=self._path, rows=len(self.current.rows))


def _shipped() -> dict[str, str]:
    folder = resources.files("proxy.pricing")
    return {name: folder.joinpath(name).read_text("utf-8") for name in _FILES}


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogError(f"[pricing] catalog_file {path}: cannot be read: {error}") from error


def _stamp(path: str) -> tuple[int, int, int] | None:
    """What changes when a file is written or replaced; None where there is none."""
    try:
        found = Path(path).stat() if path else None
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if found else None
