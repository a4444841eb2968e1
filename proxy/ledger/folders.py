"""Folders that are their owner's alone."""

from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder of the data dir, and the data dir itself, for whoever comes first. Raises OSError.

    Each by itself: what `mkdir` makes on the way to a folder has everybody's rights.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
