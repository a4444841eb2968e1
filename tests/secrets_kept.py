"""Looks for secrets where none may be: in files, in answers, in what the kernel shows of processes.

`KEYS` are what tests use as keys. At the end of every run the logs and data dirs of all proxies that ran are searched for
them (tests/conftest.py), whatever the tests were about.
"""

import base64
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

KEYS = ("sk-not-a-key", "sk-marked-")
PROMPTS = ("marked-prompt-", "marked-answer-")
LOG, DATA = "proxy.log", "data"


def forms(secret: str) -> set[bytes]:
    """A secret as it stands, and as it would stand in base64 (at each of the three offsets), hex and a URL."""
    plain = secret.encode()
    found = {plain, plain.hex().encode(), urllib.parse.quote(secret, safe="").encode()}
    for offset in range(3):  # the characters that depend on what stands before and behind are left out
        coded = base64.b64encode(b"\0" * offset + plain)
        found.add(coded[4 if offset else 0 : len(coded) - 4].rstrip(b"="))
    return {form for form in found if len(form) >= 8}


def told(name: str, content: bytes, secrets: Iterable[str]) -> list[str]:
    """Which secrets stand in a content, as lines for a person."""
    return [f"{name}: {secret}" for secret in secrets if any(form in content for form in forms(secret))]


def told_in_files(folder: Path, secrets: Iterable[str]) -> list[str]:
    """The same of every file below a folder; a socket or a file that goes away meanwhile holds nothing."""
    secrets = tuple(secrets)
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            try:
                content = path.read_bytes()
            except OSError:
                continue
            found += told(str(path), content, secrets)
    return found


def told_by_proxies(base: Path) -> list[str]:
    """Of every proxy that ran below `base`: its log and its data dir."""
    found: list[str] = []
    for log in base.rglob(LOG):
        found += told(str(log), log.read_bytes(), (*KEYS, *PROMPTS))
        found += told_in_files(log.parent / DATA, (*KEYS, *PROMPTS))
    return found
