"""What is logged of a fault: where it happened, never what was in hand there."""

import json

import pytest
import structlog

from proxy.child import configure_logging
from proxy.settings import LogSettings

SECRET = "the patient has a key sk-not-a-key"


@pytest.fixture(params=["json", "text"])
def logged(request, capsys):
    """Logs a fault whose frames hold a prompt, as a worker does; what was written."""
    configure_logging(LogSettings(format=request.param))

    def feed(chunk):
        raise ValueError(f"{len(chunk)} bytes")

    try:
        feed(SECRET)
    except ValueError as error:
        structlog.get_logger("test").error("metering_fault", stage="feed", exc_info=error)
    yield request.param, capsys.readouterr().err
    structlog.reset_defaults()


def test_a_fault_shows_where_and_never_with_what(logged):
    """Local variables of the frames hold prompts, answers and keys."""
    form, written = logged

    assert "patient" not in written
    assert "sk-not-a-key" not in written
    assert "test_logging" in written
    assert "ValueError" in written
    if form == "json":
        assert json.loads(written.splitlines()[0])["event"] == "metering_fault"
