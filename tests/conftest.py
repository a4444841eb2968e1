"""What all tests share: property tests that give the same answer on every run, however busy the machine is.

And one look at the end: no proxy that ran in any test left a key or a prompt in its log or its data dir.
"""

import pytest
import structlog
from hypothesis import settings
from secrets_kept import told_by_proxies

settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")

TOLD = pytest.StashKey[list[str]]()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session):
    """Search the temporary folder of this run; what is found fails it."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    base = getattr(factory, "_basetemp", None)  # None: no test asked for a folder
    session.config.stash[TOLD] = told_by_proxies(base) if base else []
    if session.config.stash[TOLD]:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(TOLD, []):
        terminalreporter.write_line(f"SECRET TOLD {line}", red=True)


@pytest.fixture(autouse=True)
def logs_as_at_the_start():
    """A command that a test runs in this process configures the log; the next test finds it as the first one did."""
    yield
    structlog.reset_defaults()
