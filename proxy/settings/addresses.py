"""Addresses in settings: where something listens, and how a URL may be shown."""

import ipaddress

from proxy.errors import SettingsError


def without_credentials(url: str) -> str:
    """A URL as it may be shown: user and password are left out, and the query, where Redis takes them too."""
    scheme, mark, rest = url.partition("://")
    place, question, _ = rest.rpartition("@")[2].partition("?")
    return f"{scheme}{mark}{'***@' if '@' in rest else ''}{place}{question and '?***'}"


def refuse_credentials(url: str) -> None:
    """Refuses (ValueError) a URL that names a user; the URL is not repeated.

    An `@` anywhere counts: a password that was not encoded may have a `/` before it, and then it stands in no host.
    """
    if "@" in url:
        raise ValueError(
            "url: expected a URL without user and password; a key of the upstream belongs into key_file (an @ of a path is written %40)"
        )


def split_address(address: str, setting: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[v6]:port`; SettingsError names `setting` where it is neither."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise SettingsError(f"{setting}: expected HOST:PORT, got {address!r}")
    return host.strip("[]"), int(port)


def are_one_place(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """True where nobody can listen at both: the same port, and the same host or one that stands for all of its family."""
    (host, port), (other_host, other_port) = one, other
    if port != other_port or not port or (":" in host) != (":" in other_host):
        return False
    return _numeric(host) == _numeric(other_host) or bool({"0.0.0.0", "::"} & {host, other_host})  # noqa: S104 - compared


def _numeric(host: str) -> str:
    return "127.0.0.1" if host == "localhost" else host


def is_loopback(host: str) -> bool:
    """True for an address only this machine can reach."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
