"""Small files that the console keeps in the data dir: written whole or not at all."""

import os
from pathlib import Path

from proxy.ledger.folders import create


def write_whole(path: Path, data: bytes) -> None:
    """Write under another name, then rename; for the owner's eyes only. Raises OSError, with the old file as it was."""
    unborn = path.with_suffix(".new")
    unborn.unlink(missing_ok=True)  # of one who died in the middle
    with os.fdopen(create(unborn), "wb") as file:
        file.write(data)
    unborn.rename(path)
