"""Folders that are their owner's alone, and how files in them are opened by those who may be somebody else.

A command may be run by root, and the data dir belongs to the service's user. What that user lays into it must not lead root to
any other file. So no file is opened through a symlink, and only what was just made is given away. This is about the last part of
a path: the data dir itself, or a folder in it, may well be a link to a volume.
"""

import errno
import os
from pathlib import Path


def make_private(folder: Path) -> None:
    """Make a folder of the data dir, and the data dir itself, for whoever comes first. Raises OSError.

    Each by itself: what `mkdir` makes on the way to a folder has everybody's rights.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)


def make_for_owner(folder: Path) -> None:
    """The same; one that root makes belongs to the data dir's owner. Raises OSError."""
    make_private(folder)
    made = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _give(made, folder.parent.stat())
    finally:
        os.close(made)


def open_own(path: Path, flags: int) -> int:
    """Open a file of the data dir; one that is made is its owner's alone. Raises OSError, which says so where it is a symlink."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            error.strerror = f"{path.name} is a symbolic link, and files of a data dir are not opened through one"
        raise


def create(path: Path, *, for_owner: bool = False) -> int:
    """Make a file to write to. Raises OSError; FileExistsError where there is anything of that name, be it a symlink.

    `for_owner`: one that root makes belongs to the owner of the folder that it really stands in.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made = os.open(path.name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
        if for_owner:
            _give(made, os.fstat(folder))
        return made
    finally:
        os.close(folder)


def _give(made: int, owner: os.stat_result) -> None:
    """A command run by root must not make what the service cannot write to."""
    if os.geteuid() == 0:
        os.fchown(made, owner.st_uid, owner.st_gid)
