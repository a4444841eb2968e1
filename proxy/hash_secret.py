"""The secret of the keyed hashes of API keys: the setting's, else one that is made once in the data dir."""

import os
import secrets
from pathlib import Path

from proxy.errors import MeterError
from proxy.ledger.folders import create
from proxy.settings import Settings


def hash_secret(settings: Settings) -> bytes:
    """The secret; made where there is none. Raises MeterError for a data dir that cannot be used."""
    if settings.gateway.key_hash_secret:
        return settings.gateway.key_hash_secret.encode()
    path = Path(settings.store.data_dir) / "key_hash_secret"
    try:
        if not path.exists():
            _make(path)
        return path.read_text().strip().encode()
    except OSError as error:
        raise MeterError(f"{path}: {error.strerror or error}; it has to be a file we can make and read") from error


def _make(path: Path) -> None:
    """Write it beside and give it its name, so that it is there whole or not at all; the first of two keeps its own."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unborn = path.with_suffix(f".{os.getpid()}.new")
    unborn.unlink(missing_ok=True)  # of one who died in the middle
    with os.fdopen(create(unborn), "w") as file:
        file.write(secrets.token_hex(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(unborn, path)
    except FileExistsError:
        unborn.unlink()
    except OSError:  # a file system without links
        unborn.rename(path)
    else:
        unborn.unlink()
