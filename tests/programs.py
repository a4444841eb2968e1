"""Where the programs of others are that tests start: on the system, or where deploy/tools.sh unpacked them."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

_TOOLS = Path(__file__).parents[1] / ".tools"


def program_path(*names: str) -> str | None:
    """The path of a program under one of its names; None where there is none."""
    fetched = os.pathsep.join(("/usr/sbin", "/usr/bin", *map(str, _TOOLS.glob("*/usr/bin"))))
    found = (shutil.which(name) or shutil.which(name, path=fetched) for name in names)
    return next((path for path in found if path), None)


def run_program(path: str, *arguments: object, tries: int = 3) -> subprocess.CompletedProcess[str]:
    """Run it to its end; its output as text.

    One start in many thousand failed with EFAULT on a virtual machine, before the program ran, with the path and the arguments as
    they should be. It says nothing about the program or about us, so the start alone is tried again.
    """
    command = [path, *map(str, arguments)]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        if error.errno != errno.EFAULT or tries <= 1:
            raise
        return run_program(path, *arguments, tries=tries - 1)
