"""An installation as a command finds it: the store it uses, whether it runs or not."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from proxy.child import journals_dir
from proxy.errors import DataDirInUseError
from proxy.ledger import embedded
from proxy.settings import Settings
from proxy.supervisor import locked_data_dir


@contextlib.contextmanager
def store_url(settings: Settings) -> Iterator[str]:
    """The store's URL. An embedded Redis that nobody runs is started for the time of the comparison."""
    if settings.store.redis_url:
        yield settings.store.redis_url
        return
    data_dir = Path(settings.store.data_dir)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked_data_dir(data_dir, journals_dir(settings)))
        except DataDirInUseError:
            yield f"unix://{embedded.socket_path(data_dir)}"
            return
        started = embedded.start(data_dir, embedded.find_server())
        stack.callback(started.stop)
        yield started.url
