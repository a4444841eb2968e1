"""deploy/tools.sh: finds the programs, fetches each once where apt can, and says what to install where it cannot.

apt and dpkg are stand-ins here; nothing is downloaded.
"""

import shutil
import subprocess

import pytest

NEEDED = ("sh", "dirname", "mkdir", "mktemp", "chmod", "rm", "mv")
FETCH = '#!/bin/sh\necho "$@" >>"$0.log"\n: >"$2_1.0_amd64.deb"\n'
REFUSE = "#!/bin/sh\necho no such package >&2\nexit 100\n"
UNPACK = """#!/bin/sh
mkdir -p "$3/usr/bin"
case $2 in {package}_*) for name in {programs}; do printf '#!/bin/sh\\nexit {ends}\\n' >"$3/usr/bin/$name" && chmod 755 "$3/usr/bin/$name"; done ;; esac
"""


@pytest.fixture
def script(repo, tmp_path):
    """A copy of the script in a tree of its own, where PATH holds the few programs it needs and no promtool."""
    (tmp_path / "bin").mkdir()
    for name in NEEDED:
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    (tmp_path / "deploy").mkdir()
    return shutil.copy(repo / "deploy/tools.sh", tmp_path / "deploy/tools.sh")


def put(tmp_path, name, text):
    path = tmp_path / "bin" / name
    path.write_text(text)
    path.chmod(0o755)


def run(script, tmp_path, *programs):
    return subprocess.run(
        [script, *programs],
        env={"PATH": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )


def test_a_promtool_on_the_path_is_taken(script, tmp_path):
    """Nothing is fetched where there is one already."""
    put(tmp_path, "promtool", "#!/bin/sh\n")
    outcome = run(script, tmp_path)
    assert outcome.stdout == f"{tmp_path}/bin/promtool\n"
    assert not (tmp_path / ".tools").exists()


@pytest.mark.parametrize("package", ["prometheus", "promtool"])
def test_it_is_fetched_once_and_found_again(package, script, tmp_path):
    """From Debian 12's package, or from the one of its own that later releases have; the second run asks nobody."""
    put(tmp_path, "apt-get", FETCH)
    put(tmp_path, "dpkg", UNPACK.format(package=f"*/{package}", programs="promtool", ends=0))
    first = run(script, tmp_path)
    asked = (tmp_path / "bin/apt-get.log").read_text()
    second = run(script, tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout == f"{tmp_path}/.tools/{package}/usr/bin/promtool\n"
    assert (tmp_path / "bin/apt-get.log").read_text() == asked
    assert package in {path.name for path in (tmp_path / ".tools").iterdir()} <= {"prometheus", "promtool"}


def test_several_are_fetched_package_by_package(script, tmp_path):
    """Two programs of one package are one download, and Debian's name of the Alertmanager is found too."""
    put(tmp_path, "apt-get", FETCH)
    programs = "prometheus-alertmanager amtool"
    put(tmp_path, "dpkg", UNPACK.format(package="*/prometheus-alertmanager", programs=programs, ends=0))
    outcome = run(script, tmp_path, "alertmanager", "amtool")
    folder = f"{tmp_path}/.tools/prometheus-alertmanager/usr/bin"
    assert outcome.stdout.splitlines() == [f"{folder}/prometheus-alertmanager", f"{folder}/amtool"]
    assert (tmp_path / "bin/apt-get.log").read_text().count("download") == 1


def test_what_does_not_run_is_not_kept(script, tmp_path):
    """A program that cannot be used unpacked is said to be missing, now and by the tests that look for it."""
    put(tmp_path, "apt-get", FETCH)
    put(tmp_path, "dpkg", UNPACK.format(package="*/prometheus", programs="promtool", ends=1))
    outcome = run(script, tmp_path)
    assert outcome.returncode == 1
    assert "install the package" in outcome.stderr
    assert list((tmp_path / ".tools").iterdir()) == []


def test_a_name_that_is_none_is_said(script, tmp_path):
    """Nothing is fetched for a slip of the pen."""
    put(tmp_path, "apt-get", FETCH)
    put(tmp_path, "dpkg", UNPACK.format(package="*", programs="promtool", ends=0))
    outcome = run(script, tmp_path, "promtol")
    assert outcome.returncode == 1
    assert "promtol" in outcome.stderr
    assert not (tmp_path / "bin/apt-get.log").exists()


def test_without_apt_it_says_what_to_install(script, tmp_path):
    """On another system the message is the help."""
    outcome = run(script, tmp_path)
    assert outcome.returncode == 1
    assert outcome.stdout == ""
    assert "install Prometheus" in outcome.stderr


def test_a_failed_fetch_leaves_nothing_half_done(script, tmp_path):
    """The message names the remedy, and the next run starts afresh."""
    put(tmp_path, "apt-get", REFUSE)
    put(tmp_path, "dpkg", UNPACK.format(package="*/prometheus", programs="promtool", ends=0))
    outcome = run(script, tmp_path)
    assert outcome.returncode == 1
    assert "apt-get update" in outcome.stderr
    assert list((tmp_path / ".tools").iterdir()) == []
