"""Small files that the console keeps in the data dir: written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write under another name, then rename; for the owner's eyes only. Raises OSError, with the old file as it was."""
    unborn = path.with_suffix(".new")
    fd = os.open(unborn, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    unborn.rename(path)
