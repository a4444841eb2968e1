"""What `prices` says: the price in force and why, or why there is none. Plain values out."""

from datetime import datetime
from typing import Any, NamedTuple

from proxy.gateway.hosts import Routing
from proxy.pricing.catalog import Catalog
from proxy.pricing.tariff import Seller, price_lists, printed, rate_at, sheet_at
from proxy.pricing.versions import resolve
from proxy.settings import DEFAULT_UPSTREAM, Settings
from proxy.upstreams import routes_of, routing_of, sellers_of


class Asked(NamedTuple):
    """What a price is asked for; empty where nothing was said."""

    model: str = ""
    version: str = ""
    upstream: str = ""
    api: str = "chat"


class Where:
    """Where a model is asked for: which upstream, what its names mean there, and whose prices hold."""

    def __init__(self, settings: Settings) -> None:
        self._routing: Routing = routing_of(settings)
        self._sellers = sellers_of(settings)
        self.routes = routes_of(settings)

    def upstream(self, asked: Asked) -> str:
        """The upstream that answers: as said, else that of the model's name, else one that answers with the version."""
        routed = (name for name, versions in self.routes.items() if asked.version in versions.values())
        found = asked.upstream or self._routing.upstream_of(asked.model)
        return found or (next(routed, "") if asked.version and not asked.model else "") or DEFAULT_UPSTREAM

    def seller(self, upstream: str) -> Seller:
        """Whose prices hold there."""
        return self._sellers[upstream]


def price_row(catalog: Catalog, at: datetime, where: Where, asked: Asked, currency: str) -> dict[str, Any]:
    """The price of a model or version at an instant; where there is none, also `why`. `upstream` is there if it has a name."""
    at_s, model = at.timestamp(), asked.model
    upstream = where.upstream(asked)
    seller = where.seller(upstream)
    named = asked.version or _version(catalog, at_s, where, asked, upstream)
    rate = rate_at(catalog, named, currency, at_s, model=model, seller=seller)
    row: dict[str, Any] = {
        "at": at.isoformat().replace("+00:00", "Z"),
        "model": model,
        "version": named,
        "currency": currency,
        "band": rate.band.value if rate else None,
        "price_id": rate.price_id if rate else None,
        "per_million_tokens": dict(printed(rate)) if rate else None,
        "source": rate.source if rate else None,
        "review_by": rate.review_by.isoformat() if rate else None,
    }
    if upstream != DEFAULT_UPSTREAM:
        row["upstream"] = upstream
    if rate is None:
        row["why"] = why_unpriced(catalog, named, currency, at_s, model=model, seller=seller)
        elsewhere = _version(catalog, at_s, where, asked._replace(api="anthropic"), upstream)
        if not asked.version and elsewhere in catalog.versions and asked.api != "anthropic":
            row["why"] += f"; on Anthropic's dialect the name means {elsewhere}: give --api anthropic"
    return row


def _version(catalog: Catalog, at_s: float, where: Where, asked: Asked, upstream: str) -> str:
    found = resolve(
        catalog,
        upstream=upstream,
        requested=asked.model,
        served="",
        fingerprint="",
        at_s=at_s,
        api=asked.api,
        routes=where.routes,
    )
    return found.version


def why_unpriced(catalog: Catalog, version: str, currency: str, at_s: float, *, model: str, seller: Seller) -> str:
    """In a sentence: what is missing, and what would help."""
    if version not in catalog.versions:
        return f"{version} is no version of the catalog; [pricing] catalog_file can name it and its price"
    if not seller.follows_deepseek and not any(
        sheets.get(currency) for sheets in price_lists(catalog, version, seller)
    ):
        return (
            f"{seller.name} has prices of its own, and the catalog has none in {currency} for {version} there; "
            f'[pricing] catalog_file can give it one with upstreams = ["{seller.name}"]'
        )
    names = {name for sheets in price_lists(catalog, version, seller) for name in sheets.get(currency, {})}
    own = [name for name in names if name and sheet_at(catalog, version, currency, at_s, model=name, seller=seller)]
    if own and model not in own:
        return f"at that time {version} was priced by name: give --model {' or '.join(sorted(own))}"
    return f"no {currency} price of {version} is known for that instant"
