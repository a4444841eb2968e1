"""What is logged of a fault: where it happened, never what was in hand there."""

import contextlib
import json
import logging
import os
import subprocess
import sys

import pytest
import structlog

from proxy.errors import StoreUnavailableError
from proxy.logs import configure_logging, places
from proxy.settings import LogSettings

SECRET = "the patient has a key sk-not-a-key"


@contextlib.contextmanager
def logging_as(form):
    """Logging as a worker has it, put back at the end."""
    handlers = logging.root.handlers[:]
    configure_logging(LogSettings(format=form))
    try:
        yield
    finally:
        structlog.reset_defaults()
        logging.root.handlers[:] = handlers


def a_fault(kind):
    """An exception as one comes up over a prompt: some say what they were given, some lead on to another."""

    def feed(chunk):
        if kind == "says nothing":
            raise ValueError
        if kind == "says what it was given":
            return int(chunk)
        try:
            return {}[chunk]
        except KeyError as error:
            raise RuntimeError(chunk) from error

    try:
        feed(SECRET)
    except (ValueError, RuntimeError) as error:
        return error


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("kind", ["says nothing", "says what it was given", "leads on"])
def test_a_fault_shows_where_and_never_with_what(form, capsys, kind):
    """Local variables of the frames hold prompts, answers and keys, and the message may quote them."""
    error = a_fault(kind)
    with logging_as(form):
        structlog.get_logger("test").error("metering_fault", stage="feed", exc_info=error)
    written = capsys.readouterr().err

    assert "patient" not in written
    assert "sk-not-a-key" not in written
    assert "test_logging" in written
    assert "in feed" in written
    assert type(error).__name__ in written
    if form == "json":
        assert json.loads(written.splitlines()[0])["event"] == "metering_fault"


@pytest.mark.parametrize("error", [StoreUnavailableError("redis is away"), OSError(28, "No space left on device")])
def test_what_we_and_the_system_say_is_shown(error):
    """Our own messages are made to be read, and the system's are what an operator needs."""
    assert str(error) in places(error)[0]


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_librarys_line_is_a_fact_like_ours_without_what_it_is_about(form, capsys):
    """aiohttp quotes the header it stumbled over, asyncio shows the arguments of a callback."""
    library = logging.getLogger("aiohttp.server")
    with logging_as(form):
        library.error("Error handling request from %s", SECRET, exc_info=a_fault("says what it was given"))
        library.error(f"Exception in callback feed({SECRET!r})")
        library.info("what nobody asked for")
    written = capsys.readouterr().err

    assert "patient" not in written
    assert "Exception in callback feed" in written
    if form == "json":
        first, second = (json.loads(line) for line in written.splitlines())
        assert (first["library"], first["says"]) == ("aiohttp.server", "Error handling request from")
        assert "ValueError" in first["exception"][0]
        assert "exception" not in second


def test_what_ends_a_process_is_logged_the_same_way():
    """Python's own last words would have the message in them."""
    script = (
        "from proxy.logs import configure_logging\nfrom proxy.child import keep_secrets_in\n"
        "from proxy.settings import LogSettings\n"
        f"configure_logging(LogSettings())\nkeep_secrets_in()\nint({SECRET!r})"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 1
    assert "crashed" in ended.stderr
    assert "ValueError" in ended.stderr
    assert "patient" not in ended.stderr


def test_a_line_is_one_write():
    """Supervisor, console and workers write to one file; a line of one must not end up in the middle of another's."""
    program = (
        "import sys; from proxy.logs import configure_logging; from proxy.settings import LogSettings; import structlog\n"
        "writes = []\n"
        "class Seen:\n"
        "    def write(self, text): writes.append(text)\n"
        "    def flush(self): pass\n"
        "    def isatty(self): return False\n"
        "    def fileno(self): return 2\n"
        "sys.stderr = Seen()\n"
        "configure_logging(LogSettings(format='json'))\n"
        "structlog.get_logger('x').warning('something', number=1)\n"
        "print(len(writes), writes[0].endswith(chr(10)))\n"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1 True"


@pytest.mark.parametrize("form", ["json", "console"])
@pytest.mark.parametrize("line", ["structlog.get_logger().info('told')", "quick_line(settings)('told')"])
def test_a_log_that_cannot_be_written_ends_nothing(form, line):
    """Its reader is gone, as a closed terminal is: what was being told of goes on."""
    reading, writing = os.pipe()
    os.close(reading)
    program = (
        "import structlog; from proxy.logs import configure_logging, quick_line; from proxy.settings import LogSettings\n"
        f"settings = LogSettings(format={form!r}); configure_logging(settings)\n{line}\n{line}\nprint('went on')"
    )
    with os.fdopen(writing, "wb") as nobody:
        ran = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=nobody, text=True, check=False
        )

    assert ran.stdout == "went on\n"
