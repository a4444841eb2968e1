"""Who asks, and whether they may: the app an exchange is counted for, by what the client states and by its key.

In passthrough mode nobody is turned away: a client names itself with `X-Meter-App`, else it gets a name made of a keyed hash
of its API key, short and stable, from which the key cannot be found. In managed mode a key of ours is needed, and the app is
that key's, whatever the client states. Keys are compared by their keyed hashes only, and never stored or logged.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from proxy.errors import NotAllowedError, SettingsError, UnknownKeyError
from proxy.gateway.headers import label_of
from proxy.metering.request import RequestFacts
from proxy.usage import METERED_APIS, Api, clean_label

ANONYMOUS: Final = "anonymous"
_NAME_BYTES: Final = 5
_KEY_BYTES: Final = 32
_OPEN_WHEN_MANAGED: Final = METERED_APIS | {Api.MODELS}
"""What a client may ask of an upstream that is not its own: not the balance, not other people's files."""


def credential_of(headers: Mapping[str, str]) -> str | None:
    """The credential a client sent, as it stands: OpenAI's way, Anthropic's, or Azure's. The mapping ignores case."""
    return headers.get("Authorization") or headers.get("x-api-key") or headers.get("api-key")


def app_of(stated: str | None, credential: str | None, secret: bytes) -> str:
    """The app: as stated, else `key-` and ten hex digits for the credential, else `anonymous`."""
    if label := label_of(stated):
        return label
    if not credential:
        return ANONYMOUS
    return f"key-{keyed_hash(_key_in(credential), secret)}"


def keyed_hash(text: str, secret: bytes) -> str:
    """Ten hex digits that stand for a text, and from which it cannot be found."""
    return _hashed(text, secret, _NAME_BYTES).hex()


class ClientKeys:
    """The keys of the managed mode, as hashes, with the app of each."""

    def __init__(self, apps: Mapping[str, str], secret: bytes) -> None:
        """`apps` goes from key to app."""
        self._secret = secret
        self._apps = {_hashed(key, secret, _KEY_BYTES): app for key, app in apps.items()}

    def __repr__(self) -> str:
        return f"<ClientKeys of {len(self._apps)}>"

    def admit(self, credential: str | None, request: RequestFacts) -> str:
        """The app of a credential. Raises UnknownKeyError, and NotAllowedError for what no client may ask."""
        key = _key_in(credential) if credential else ""
        app = self._apps.get(_hashed(key, self._secret, _KEY_BYTES)) if key else None
        if app is None:
            raise UnknownKeyError("The proxy does not know this API key.")
        if request.api not in _OPEN_WHEN_MANAGED:
            raise NotAllowedError("The proxy does not open this path to its clients.")
        return app


def read_client_keys(text: str, where: str) -> dict[str, str]:
    """Apps by key, out of lines `APP KEY`; empty ones and those that begin with `#` are passed over.

    Raises SettingsError with the line's number, never with what stands in it.
    """
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        parts = line.split()
        if not parts or parts[0].startswith("#"):
            continue
        if len(parts) != 2 or parts[1] in found:
            raise SettingsError(f"[gateway] client_keys_file {where}: line {number}: expected `APP KEY`, each key once")
        found[parts[1]] = clean_label(parts[0])
    if not found:
        raise SettingsError(f"[gateway] client_keys_file {where}: holds no key; nobody could ask anything")
    return found


def key_line(header: str, key: str) -> bytes:
    """The header line that shows an upstream a key. Raises SettingsError for a key that is none."""
    if not key.isascii() or not key.isprintable() or not key or " " in key:
        raise SettingsError("key_file: expected one key, printable and without spaces")
    name, value = ("Authorization", f"Bearer {key}") if header == "authorization" else (header, key)
    return f"{name}: {value}\r\n".encode()


def _key_in(credential: str) -> str:
    scheme, _, rest = credential.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else credential.strip()


def _hashed(key: str, secret: bytes, size: int) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=secret[:64], digest_size=size).digest()
