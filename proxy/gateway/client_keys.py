"""What a client key opens, in managed mode: decided on plain values, at an instant that comes in as an argument.

A key looks like `dsm_` + 8 characters that name it + `_` + 24 that are secret (letters and digits: 142 bits). Whoever shows
one that is known, not revoked and not expired is its app, whatever else he says. Every refusal says what is wrong and
never shows what came: a client sees it, and so does a log.
"""

import hmac
import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from urllib.parse import unquote

from proxy.errors import AmbiguousRequestError, NotAllowedError, UnknownKeyError
from proxy.gateway.keys import key_digest, key_in
from proxy.ledger.client_keys import ClientKey, Known, fits
from proxy.metering.request import RequestFacts, model_in_path
from proxy.metering.strict import AmbiguousBodyError, model_of
from proxy.pricing.revisions import base_of
from proxy.usage import METERED_APIS, Api, Purpose

PREFIX: Final = "dsm_"
ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH: Final = 8
SECRET_LENGTH: Final = 24
_KEY: Final = re.compile(rf"{PREFIX}([0-9A-Za-z]{{{ID_LENGTH}}})_[0-9A-Za-z]{{{SECRET_LENGTH}}}")
_ID: Final = re.compile(rf"(?:{PREFIX})?([0-9A-Za-z]{{{ID_LENGTH}}})(?:_[0-9A-Za-z]{{{SECRET_LENGTH}}})?")
_READS_ONLY: Final = frozenset({"GET", "HEAD"})


class Presented(NamedTuple):
    """What a request shows of who asks and for what; credentials as they stand in their headers."""

    method: str
    path: str
    credentials: tuple[str, ...] = ()
    app: str | None = None
    purpose: str | None = None

    def __repr__(self) -> str:
        return f"<Presented {self.method} with {len(self.credentials)} credentials>"


def new_key(draw: Callable[[int], int]) -> tuple[str, str]:
    """The id of a new key, and the key. `draw(n)` is a random number below n, nobody else's to know."""
    characters = [ALPHABET[draw(len(ALPHABET))] for _ in range(ID_LENGTH + SECRET_LENGTH)]
    key_id, secret = "".join(characters[:ID_LENGTH]), "".join(characters[ID_LENGTH:])
    return key_id, f"{PREFIX}{key_id}_{secret}"


def id_of(text: str) -> str | None:
    """The id in what somebody typed: the id, with its prefix or not, or a whole key. None where it is neither."""
    found = _ID.fullmatch(text.strip())
    return found[1] if found else None


def the_only_key(credentials: Iterable[str]) -> str:
    """The key that was shown, empty where there is none. Raises AmbiguousRequestError for two different ones."""
    shown = {key_in(credential) for credential in credentials if credential}
    if len(shown) > 1:
        raise AmbiguousRequestError("The request shows two different API keys; send one.")
    return next(iter(shown), "")


def recognised(credentials: Iterable[str], known: Known, secret: bytes, now_s: float) -> ClientKey:
    """The key that was shown. Raises AmbiguousRequestError for two different ones, UnknownKeyError for none that is good."""
    text = the_only_key(credentials)
    found = _KEY.fullmatch(text)
    if found is None:
        raise UnknownKeyError(f"This proxy wants an API key of its own, which begins with {PREFIX}; ask its operator.")
    key = known.keys.get(found[1])
    if key is None or not hmac.compare_digest(key.digest, key_digest(text, secret)):
        raise UnknownKeyError("The proxy does not know this API key.")
    if key.id in known.revoked:
        raise UnknownKeyError("This API key was revoked.", "revoked_api_key")
    if key.expired(now_s):
        raise UnknownKeyError("This API key has expired.", "expired_api_key")
    return key


def purpose_for(key: ClientKey, stated: str | None) -> Purpose:
    """The purpose of an exchange: as stated, if the key allows it; else the key's first. Raises NotAllowedError."""
    allowed = key.purposes or tuple(Purpose)
    if not (stated or "").strip():
        return allowed[0]
    purpose = next((one for one in allowed if one == (stated or "").strip().lower()), None)
    if purpose is None:
        raise NotAllowedError(
            f"This API key is for the purposes {', '.join(allowed)}; X-Meter-Purpose says another.",
            "purpose_not_allowed",
        )
    return purpose


def check_open(method: str, path: str, api: Api, open_paths: Iterable[str]) -> None:
    """Raises NotAllowedError for a path that clients may not ask: others' files, the balance, what may be read two ways."""
    if not _is_plain(path) or not (fits(path, open_paths) or _is_open(method, path, api)):
        raise NotAllowedError("The proxy does not open this path to its clients.", "path_not_open")


def check_request(key: ClientKey, request: RequestFacts, body: bytes, content_encoding: str, path: str) -> None:
    """Raises AmbiguousRequestError for a body that may be read in two ways, NotAllowedError for a model that is not allowed."""
    reads_models = request.api in METERED_APIS or (request.api is Api.OTHER and key.models + key.versions and body)
    if not reads_models:
        return
    try:
        model = model_of(body, content_encoding, model_in_path(path))
    except AmbiguousBodyError as error:
        raise AmbiguousRequestError(f"The request's body cannot be read for certain: {error}.") from error
    if request.api in METERED_APIS and model != request.model:
        raise AmbiguousRequestError("The request's model cannot be read for certain.")
    if key.models and not fits(model, key.models):
        raise NotAllowedError(f"This API key is for the models {', '.join(key.models)}.", "model_not_allowed")


def check_version(key: ClientKey, version: str | None) -> None:
    """Raises NotAllowedError for a version that is known to answer and not allowed. One nobody knows yet may answer."""
    if key.versions and version is not None and not fits(base_of(version), key.versions):
        raise NotAllowedError(
            f"This API key is for the versions {', '.join(key.versions)}; {version} would answer.",
            "version_not_allowed",
        )


def _is_open(method: str, path: str, api: Api) -> bool:
    if {"files", "user"} & set(unquote(path).lower().split("/")):
        return False  # whatever stands behind it
    return api in METERED_APIS or (api is Api.MODELS and method in _READS_ONLY)


def _is_plain(path: str) -> bool:
    """False for a path that a host may take for another one: escapes of escapes, dots, backslashes, parameters."""
    plain = unquote(path)
    same_parts = plain.count("/") == path.count("/")
    return same_parts and not {".", ".."} & set(plain.split("/")) and not set("%\\;\0") & set(plain)
