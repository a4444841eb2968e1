"""Who asks: the app an exchange is counted for, by what the client states and by its key; and how a key is shown and hashed.

In passthrough mode nobody is turned away: a client names itself with `X-Meter-App`, else its key is looked up among
those that `[apps]` names, else it gets a name made of a keyed hash of its key, short and stable, from which the key cannot
be found. What managed mode asks of a key stands in `client_keys`. No key is ever stored or logged.
"""

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from proxy.errors import SettingsError
from proxy.gateway.headers import label_of

ANONYMOUS: Final = "anonymous"
CREDENTIAL_HEADERS: Final = ("Authorization", "x-api-key", "api-key")
"""How clients show a key: OpenAI's way, Anthropic's, Azure's. The first that is there names the app."""

_NO_NAMES: Final[Mapping[str, str]] = MappingProxyType({})
_NAME_BYTES: Final = 5
_KEY_BYTES: Final = 32


def app_of(stated: str | None, credential: str | None, secret: bytes, names: Mapping[str, str] = _NO_NAMES) -> str:
    """The app: as stated, else as `names` has it for the credential's `key-` name, else that name, else `anonymous`."""
    if label := label_of(stated):
        return label
    if not credential:
        return ANONYMOUS
    name = f"key-{keyed_hash(key_in(credential), secret)}"
    return names.get(name, name)


def keyed_hash(text: str, secret: bytes) -> str:
    """Ten hex digits that stand for a text, and from which it cannot be found."""
    return _hashed(text, secret, _NAME_BYTES).hex()


def key_digest(key: str, secret: bytes) -> str:
    """What is kept of a client key instead of it: 64 hex digits."""
    return _hashed(key, secret, _KEY_BYTES).hex()


def secret_name(secret: bytes) -> str:
    """A name for a hash secret, so that keys hashed with another one can be told from wrong keys."""
    return keyed_hash("the hash secret of client keys", secret)


def key_line(header: str, key: str) -> bytes:
    """The header line that shows an upstream a key. Raises SettingsError for a key that is none."""
    if not key.isascii() or not key.isprintable() or not key or " " in key:
        raise SettingsError("key_file: expected one key, printable and without spaces")
    name, value = ("Authorization", f"Bearer {key}") if header == "authorization" else (header, key)
    return f"{name}: {value}\r\n".encode()


def key_in(credential: str) -> str:
    """The key in a credential as it stands in its header: a bearer token, or the whole of it."""
    scheme, _, rest = credential.strip().partition(" ")
    return rest.strip() if scheme.lower() == "bearer" else credential.strip()


def _hashed(key: str, secret: bytes, size: int) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=secret[:64], digest_size=size).digest()
