"""Who is let in, in each of the two modes; the relay asks, in this order, and goes on where nothing is raised.

`admit` (who is it), `purpose` (may he ask this path, and why), then, once the body is there and the host is known, `allow`
(this model and version), and last `lease` (a place under the limits). What costs nothing comes first; what has to be
given back comes last.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from proxy.errors import KeysUnavailableError, RelayError
from proxy.gateway.client_keys import (
    Presented,
    check_open,
    check_request,
    check_version,
    purpose_for,
    recognised,
    the_only_key,
)
from proxy.gateway.headers import label_of, purpose_of
from proxy.gateway.keys import app_of
from proxy.ledger.client_keys import ClientKey, Known
from proxy.ledger.key_limits import Lease
from proxy.metering.request import RequestFacts
from proxy.usage import Api, Purpose


class Admitted(NamedTuple):
    """Who asks: the app, and `payer`, which is told by the key alone. `key` is None in passthrough mode."""

    app: str
    payer: str
    key: ClientKey | None = None


class Asking(NamedTuple):
    """What is asked, once the body is there; `version` is the one known to answer, if one is."""

    request: RequestFacts
    body: bytes
    content_encoding: str
    path: str
    version: str | None


class Entry(Protocol):
    """What the relay asks before anything goes upstream. All raise RelayError where the answer is no."""

    def admit(self, presented: Presented) -> Admitted:
        """Who asks."""

    def purpose(self, admitted: Admitted, presented: Presented, api: Api) -> Purpose:
        """Why, where the path is open to him at all."""

    def allow(self, admitted: Admitted, asking: Callable[[], Asking]) -> None:
        """Nothing, where he may ask this."""

    def lease(self, admitted: Admitted) -> Lease | None:
        """The place to be taken under his limits; None where there are none."""


class OpenEntry:
    """Passthrough mode: everybody is let in, and named."""

    def __init__(self, secret: bytes, names: Mapping[str, str], *, one_key: bool = False) -> None:
        """`names` are the apps of keys, by their `key-` names. With `one_key` nobody may show two, and pay by one of his choice."""
        self._secret = secret
        self._names = names
        self._one_key = one_key

    def __repr__(self) -> str:
        return f"<OpenEntry names={len(self._names)}>"

    def admit(self, presented: Presented) -> Admitted:
        """The app, as stated or by the first credential. Raises AmbiguousRequestError for two keys where only one may be shown."""
        if self._one_key:
            the_only_key(presented.credentials)
        credential = presented.credentials[0] if presented.credentials else None
        payer = app_of(None, credential, self._secret, self._names)
        return Admitted(label_of(presented.app) or payer, payer)

    def purpose(self, _admitted: Admitted, presented: Presented, _api: Api) -> Purpose:
        """As stated."""
        return purpose_of(presented.purpose)

    def allow(self, _admitted: Admitted, _asking: Callable[[], Asking]) -> None:
        """Everything."""

    def lease(self, _admitted: Admitted) -> None:
        """None: nobody has limits."""


class Keys(NamedTuple):
    """The client keys as a worker has them: what is known, and whether that may be relied on now."""

    known: Callable[[], Known]
    usable: Callable[[], bool]
    lease: Callable[[ClientKey | None], Lease | None]


class ManagedEntry:
    """Managed mode: a client key is needed, and says what it opens. `refusals` counts by the code of the error."""

    def __init__(self, keys: Keys, secret: bytes, open_paths: tuple[str, ...], wall_s: Callable[[], float]) -> None:
        self._keys = keys
        self._secret = secret
        self._open_paths = open_paths
        self._wall_s = wall_s
        self.refusals: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<ManagedEntry {self._keys.known()!r}>"

    def admit(self, presented: Presented) -> Admitted:
        """The app of the key that was shown."""
        with self._counted():
            if not self._keys.usable():
                raise KeysUnavailableError("The proxy cannot check API keys now; try again shortly.")
            key = recognised(presented.credentials, self._keys.known(), self._secret, self._wall_s())
        return Admitted(key.app, key.app, key)

    def purpose(self, admitted: Admitted, presented: Presented, api: Api) -> Purpose:
        """What the key allows."""
        with self._counted():
            check_open(presented.method, presented.path, api, self._open_paths)
            return purpose_for(_key_of(admitted), presented.purpose)

    def allow(self, admitted: Admitted, asking: Callable[[], Asking]) -> None:
        """What the key allows."""
        key, what = _key_of(admitted), asking()
        with self._counted():
            check_request(key, what.request, what.body, what.content_encoding, what.path)
            check_version(key, what.version)

    def lease(self, admitted: Admitted) -> Lease | None:
        """A place under the key's limits."""
        return self._keys.lease(admitted.key)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        try:
            yield
        except RelayError as error:
            self.refusals[error.code] += 1
            raise


def _key_of(admitted: Admitted) -> ClientKey:
    assert admitted.key is not None  # noqa: S101 - `admit` of managed mode lets nobody in without
    return admitted.key
