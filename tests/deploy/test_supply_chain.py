"""What we stand on: the bill of materials says all of it, and the audit never calls unchecked what it could not ask."""

import importlib.util
import json
import re
import subprocess

import pytest


@pytest.fixture(scope="module")
def sbom(repo):
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("sbom", repo / "deploy/sbom.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bill(sbom, repo):
    """The bill of the project as it stands, without what this machine has installed."""
    files = ((repo / name).read_text("utf-8") for name in ("requirements.txt", "pyproject.toml"))
    return sbom.bill(*files, lambda name, _version: "MIT" if name == "redis" else "")


def test_every_pinned_package_is_in_the_bill_with_all_its_hashes(bill, repo):
    """As pip is held to them."""
    text = (repo / "requirements.txt").read_text("utf-8")
    names = {one["name"] for one in bill["components"]}
    hashes = {one["content"] for part in bill["components"] for one in part["externalReferences"][0]["hashes"]}

    assert len(names) == len(bill["components"]) == len(re.findall(r"^[A-Za-z0-9].*==", text, re.MULTILINE))
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", text))
    assert {"aiohttp", "redis", "msgspec"} <= names
    assert all(one["purl"] == f"pkg:pypi/{one['name']}@{one['version']}" for one in bill["components"])
    assert set(bill["dependencies"][0]["dependsOn"]) == {one["bom-ref"] for one in bill["components"]}


def test_the_same_files_give_the_same_bill(repo, tmp_path):
    """Byte for byte: what differs between two bills is what changed."""
    command = [str(repo / ".venv/bin/python"), str(repo / "deploy/sbom.py")]
    if not (repo / ".venv/bin/python").exists():
        pytest.skip("no .venv: make test makes one")
    for name in ("a", "b"):
        subprocess.run([*command, str(tmp_path / name)], check=True, timeout=60)

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_licence_is_stated_where_it_is_known(bill, sbom):
    """And only by the very version that is pinned."""
    licences = {one["name"]: one.get("licenses") for one in bill["components"]}

    assert licences["redis"] == [{"license": {"name": "MIT"}}]
    assert licences["aiohttp"] is None
    assert sbom.installed_license("redis", "0.0.1") == ""
    assert sbom.installed_license("no-such-package", "1") == ""


@pytest.mark.parametrize("text", ["redis>=7\n", "redis==7.0.0\n", "redis==7 \\\n    --hash=md5:00\n"])
def test_what_is_not_pinned_is_refused(sbom, text):
    """A bill with a hole in it would be worse than none."""
    with pytest.raises(ValueError, match="NAME==VERSION"):
        list(sbom.pinned(text))


def test_the_bill_is_cyclonedx(bill):
    """By the schema, which comes with cyclonedx-python-lib and needs no network."""
    validation = pytest.importorskip(
        "cyclonedx.validation.json", reason="cyclonedx-python-lib[json-validation] is missing"
    )
    from cyclonedx.schema import SchemaVersion

    assert validation.JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


FINE = "No known vulnerabilities found"
FOUND = "Found 2 known vulnerabilities in 1 package"
CLOSED = "requests.exceptions.ConnectionError: Max retries exceeded with url: /pypi/redis/json"
MIRROR = "redis Dependency not found on PyPI and could not be audited: redis (7.0.0)"


@pytest.mark.parametrize(
    ("answer", "exit_code", "told"),
    [
        ((0, FINE), 0, ""),
        ((1, FOUND), 1, ""),
        ((1, CLOSED), 0, "NOT CHECKED"),
        ((0, MIRROR), 0, "NOT CHECKED"),
        ((0, f"{MIRROR}\n{FINE}"), 2, "could not be asked about"),
        ((2, "usage: pip-audit"), 2, ""),
        ((1, "Traceback"), 1, ""),
    ],
)
def test_an_audit_says_what_it_could_not_ask(repo, tmp_path, answer, exit_code, told):
    """Fine only where somebody was asked; a closed network is no failure of ours, and is said."""
    code, said = answer
    pip_audit = tmp_path / "pip-audit"
    pip_audit.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {code}\n")
    pip_audit.chmod(0o755)
    pins = tmp_path / "requirements.txt"
    pins.write_text("redis==7.0.0\n" + ("other==1\n" if exit_code == 2 and code == 0 else ""))
    done = subprocess.run(
        [str(repo / "deploy/audit.sh"), str(pins)],
        env={"PATH": "/usr/bin:/bin", "PIP_AUDIT": str(pip_audit)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == exit_code
    assert told in done.stderr
    assert bool(told) or "audit:" not in done.stderr
    assert said in done.stdout


def test_an_audit_without_its_tool_is_no_audit(repo):
    """Exit code 2, and what to install."""
    done = subprocess.run(
        [str(repo / "deploy/audit.sh")], env={"PATH": "/usr/bin:/bin", "PIP_AUDIT": "no-such-tool"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "pip install pip-audit" in done.stderr
