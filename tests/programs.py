"""Where the programs of others are that tests start: on the system, or where deploy/tools.sh unpacked them."""

import os
import shutil
from pathlib import Path

_TOOLS = Path(__file__).parents[1] / ".tools"


def program_path(*names: str) -> str | None:
    """The path of a program under one of its names; None where there is none."""
    fetched = os.pathsep.join(("/usr/sbin", "/usr/bin", *map(str, _TOOLS.glob("*/usr/bin"))))
    found = (shutil.which(name) or shutil.which(name, path=fetched) for name in names)
    return next((path for path in found if path), None)
