"""What every process of ours does about what it holds in memory."""

import subprocess
import sys

import pytest

from proxy.child import without_secrets

ASKS = """
import ctypes, resource
from proxy.child import keep_secrets_in
keep_secrets_in()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE)[0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux'")
def test_a_process_is_not_dumped_and_not_read_by_others():
    """PR_GET_DUMPABLE says 0: no core dump, no ptrace, no /proc/PID/mem and environ for the same user; and no core limit."""
    said = subprocess.run([sys.executable, "-c", ASKS], capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout.split() == ["0", "0"]


def test_children_get_an_environment_without_settings_and_keys():
    """They are told over their pipe; what a child does not hold, nobody finds there."""
    given = {"PATH": "/bin", "DEEPSEEK_API_KEY": "k", "METER_STORE_REDIS_URL": "redis://:p@h", "HOME": "/"}

    assert without_secrets(given) == {"PATH": "/bin", "HOME": "/"}
