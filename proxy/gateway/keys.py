"""Who asks: the app an exchange is counted for.

A client names itself with `X-Meter-App`; else it gets a name made of a keyed hash of its API key, short and stable, from
which the key cannot be found. The key itself is never stored, logged or compared here.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

from proxy.gateway.headers import label_of

ANONYMOUS: Final = "anonymous"
_DIGEST_BYTES: Final = 5


def credential_of(headers: Mapping[str, str]) -> str | None:
    """The credential a client sent, as it stands: OpenAI's way, or Anthropic's. The mapping ignores case."""
    return headers.get("Authorization") or headers.get("x-api-key")


def app_of(stated: str | None, credential: str | None, secret: bytes) -> str:
    """The app: as stated, else `key-` and ten hex digits for the credential, else `anonymous`."""
    if label := label_of(stated):
        return label
    if not credential:
        return ANONYMOUS
    scheme, _, rest = credential.strip().partition(" ")
    key = rest.strip() if scheme.lower() == "bearer" else credential.strip()
    digest = hashlib.blake2b(key.encode("utf-8", "surrogateescape"), key=secret[:64], digest_size=_DIGEST_BYTES)
    return f"key-{digest.hexdigest()}"
