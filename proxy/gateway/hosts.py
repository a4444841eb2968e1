"""The hosts that may answer, and which of them does: decided by the model that is asked for, and by nothing else.

A name that no host lists goes to the default one, as does what asks no model. A name as it stands goes before one that ends
in `*`, and of those the longest counts. What a client writes into Host, path or headers never chooses a host.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from proxy.gateway.exchange import Caps, Estimates
from proxy.gateway.upstream import Upstream

ANY_REST = "*"


class Host(NamedTuple):
    """An upstream with what is particular to it."""

    name: str
    upstream: Upstream
    estimates: Estimates
    caps_for: Callable[[str], Caps | None]
    add_include_usage: bool = False


class Routing:
    """Which name goes where: from `models` by upstream to the upstream of a model; None for the default."""

    def __init__(self, models: Mapping[str, Sequence[str]]) -> None:
        owners = {model: upstream for upstream, names in models.items() for model in names}
        self._exact = {name: owner for name, owner in owners.items() if not name.endswith(ANY_REST)}
        beginnings = ((name[:-1], owner) for name, owner in owners.items() if name.endswith(ANY_REST))
        self._beginnings = sorted(beginnings, key=lambda pair: len(pair[0]), reverse=True)

    def __repr__(self) -> str:
        return f"<Routing of {len(self._exact)} names and {len(self._beginnings)} beginnings>"

    def upstream_of(self, model: str) -> str | None:
        """The name of the upstream that answers for a model."""
        found = self._exact.get(model)
        if found is None and model:
            found = next((owner for beginning, owner in self._beginnings if model.startswith(beginning)), None)
        return found


class Hosts:
    """All hosts; the first one is the default."""

    def __init__(self, hosts: Sequence[Host], routing: Routing) -> None:
        self._by_name = {host.name: host for host in hosts}
        self._routing = routing
        self.default = hosts[0]

    def __repr__(self) -> str:
        return f"<Hosts {', '.join(self._by_name)}>"

    @property
    def is_alone(self) -> bool:
        """True where there is nothing to choose."""
        return len(self._by_name) == 1

    def __iter__(self) -> Iterator[Host]:
        return iter(self._by_name.values())

    def of(self, model: str) -> Host:
        """The host that answers for a model."""
        name = self._routing.upstream_of(model)
        return self.default if name is None else self._by_name[name]

    async def close(self) -> None:
        """Close all connections."""
        for host in self:
            await host.upstream.close()
