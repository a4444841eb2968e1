"""Which version of a model answered, by the best evidence an exchange offers.

The order: a configured route; a fingerprint the catalog knows; what the alias meant at that instant; the served name as
it stands; the requested name; `unknown`. A fingerprint goes before the alias because the alias is DeepSeek's promise and
the fingerprint is what answered: the hour of a switch is seldom published. What comes out is a label: at most 128
printable characters, whatever a client or an upstream sent.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from proxy.pricing.catalog import Catalog, fingerprint_key
from proxy.pricing.revisions import base_of, is_tag
from proxy.usage import How, clean_label

UNKNOWN_VERSION: Final = "unknown"
Routes = Mapping[str, Mapping[str, str]]
"""Which version an operator says answers: by upstream, then by the name asked for, which may end in `*`."""

NO_ROUTES: Final[Routes] = MappingProxyType({})


class Resolution(msgspec.Struct, frozen=True):
    """A version and the kind of evidence it stands on."""

    version: str
    how: How


def resolve(
    catalog: Catalog,
    *,
    upstream: str,
    requested: str,
    served: str,
    fingerprint: str,
    at_s: float,
    api: str = "",
    routes: Routes = NO_ROUTES,
) -> Resolution:
    """The version behind one exchange; `at_s` (seconds since the epoch) is the instant that decides aliases.

    `api` is the dialect: on Anthropic's, names of other makers' models mean something. Empty strings stand for what was not sent.
    """
    routed = _routed(routes, upstream, requested)
    if routed is not None:
        return Resolution(clean_label(routed), How.ROUTE)
    known = catalog.fingerprints.get(fingerprint_key(fingerprint))
    if known is not None:
        return Resolution(known, How.FINGERPRINT)
    meant = _meant(catalog, served or requested, at_s, api)
    if meant is not None:
        return Resolution(meant, How.ALIAS)
    return _by_name(served, requested)


def expected(
    catalog: Catalog,
    *,
    requested: str,
    at_s: float,
    upstream: str = "",
    api: str = "",
    routes: Routes = NO_ROUTES,
) -> str | None:
    """The version known before the upstream answered: a route's or the alias's; None where only the body can tell."""
    routed = _routed(routes, upstream, requested)
    return _meant(catalog, requested, at_s, api) if routed is None else clean_label(routed)


def mismatch(catalog: Catalog, expected_version: str, version: str) -> str:
    """What a client expected, as it is counted, where another version answered; empty where nothing is amiss.

    Revisions are left out here: they are told when records are folded, and judged there (`revisions.settled`). What the
    catalog does not know is counted as `unknown`, so that a client cannot make series of its own.
    """
    if not expected_version or version in (UNKNOWN_VERSION, ""):
        return ""
    named = base_of(expected_version) if is_tag(expected_version) else expected_version
    if named == base_of(version):
        return ""
    known = named in catalog.versions and is_tag(expected_version)
    return expected_version if known else UNKNOWN_VERSION


def without_host(name: str) -> str:
    """A name without the folders a host puts before it: `deepseek-ai/DeepSeek-R1` is `DeepSeek-R1`."""
    return name.rpartition("/")[2] or name


def _routed(routes: Routes, upstream: str, requested: str) -> str | None:
    """What a configured route says: of the name as it stands, else of the longest beginning that fits."""
    versions = routes.get(upstream) if routes else None
    if not versions or not requested:
        return None
    if requested in versions:
        return versions[requested] or None
    fitting = [name for name in versions if name.endswith("*") and _fits(requested, name)]
    return versions[max(fitting, key=len)] or None if fitting else None


def _meant(catalog: Catalog, name: str, at_s: float, api: str) -> str | None:
    """What a name meant: as it stands, else by the longest pattern of its dialect that fits."""
    meanings = catalog.aliases.get(name)
    if meanings is not None:
        return meanings.at(at_s)
    for pattern in catalog.patterns if name else ():
        if pattern.api in ("", api) and _fits(name, pattern.beginning):
            return pattern.meanings.at(at_s)
    return None


def _fits(name: str, pattern: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _by_name(served: str, requested: str) -> Resolution:
    for name, how in ((served, How.SERVED_NAME), (requested, How.REQUESTED_NAME)):
        label = clean_label(without_host(name.strip()))
        if label:
            return Resolution(label, how)
    return Resolution(UNKNOWN_VERSION, How.UNKNOWN)
