"""An installation as a command finds it: the store it uses, whether it runs or not."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from proxy.audit_trail import operator
from proxy.child import journals_dir
from proxy.errors import DataDirInUseError, MeterError
from proxy.hash_secret import hash_secret
from proxy.ledger import embedded
from proxy.ledger.audit import audit_key
from proxy.ledger.audit_file import Audit, AuditFile
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


def audit_of(settings: Settings, command: str) -> Audit:
    """What a command notes with, in the name of who runs it: `audit_of(settings, "keys revoke").note(action, subject)`.

    It may be used beside a running service, whose console carries the entry to Redis. Raises MeterError where the data dir
    cannot be used.
    """
    data_dir = Path(settings.store.data_dir)
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = audit_key(hash_secret(settings))
    except OSError as error:
        raise MeterError(f"[store] data_dir {data_dir}: {error.strerror or error}") from error
    return Audit(AuditFile(data_dir, key), f"{operator()}: {command}")
