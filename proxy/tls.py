"""TLS on both sides: what an upstream has to show us, and what we show our clients. TLS 1.2 or newer, always verified."""

import ssl
from collections.abc import Iterator

from proxy.errors import SettingsError
from proxy.settings import Settings

OLDEST = ssl.TLSVersion.TLSv1_2


def client_tls(ca_file: str, where: str = "ca_file") -> ssl.SSLContext:
    """For a connection to an upstream, whose certificate and name are checked: against a CA bundle of the operator's, or the system's.

    Raises SettingsError, with `where` the file stands, for one that cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{where} {ca_file}: cannot be used as a CA bundle (PEM): {_why(error)}") from error
    context.minimum_version = OLDEST
    return context


def server_tls(certificate_file: str, key_file: str, section: str) -> ssl.SSLContext | None:
    """For a port of ours; None where it has no certificate and speaks plain HTTP. Raises SettingsError."""
    if not certificate_file and not key_file:
        return None
    if not certificate_file or not key_file:
        raise SettingsError(f"[{section}] tls_certificate_file, tls_key_file: one needs the other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = OLDEST
    try:
        context.load_cert_chain(certificate_file, key_file, password=_no_password)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise SettingsError(
            f"[{section}] tls_certificate_file {certificate_file}, tls_key_file {key_file}: expected a chain and its key "
            f"(PEM, without a password): {_why(error)}"
        ) from error
    return context


def scheme(certificate_file: str) -> str:
    """How URLs of a port begin."""
    return "https" if certificate_file else "http"


def check_tls(settings: Settings) -> None:
    """Try every file before anything is started. Raises SettingsError for the first that cannot be used."""
    for where, ca_file in _bundles(settings):
        client_tls(ca_file, where)
    for section in ("gateway", "console"):
        port = settings.gateway if section == "gateway" else settings.console
        server_tls(port.tls_certificate_file, port.tls_key_file, section)


def _bundles(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, upstream in settings.all_upstreams().items():
        if upstream.ca_file:
            yield f"upstream {name}: ca_file", upstream.ca_file


def _no_password() -> str:
    """Without this the library would ask at the terminal."""
    raise ValueError("the key is protected by a password")


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else "") or str(error)
