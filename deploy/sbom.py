"""A bill of materials of what runs (CycloneDX 1.6, JSON): every pinned dependency with its hashes, and its licence where it is known.

Out of requirements.txt, which `make lock` writes and pip holds every install to. The same file gives the same bill, byte for
byte: no clock, no random serial number. Licences are those that the installed packages state of themselves.

    python deploy/sbom.py [FILE]          # standard output without a FILE
"""

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements.txt"
PROJECT = ROOT / "pyproject.toml"
NAMESPACE = uuid.NAMESPACE_URL

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)(?:\s*;\s*(?P<marker>[^\\]+))?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")

License = Callable[[str, str], str]
"""The licence of a name and version, empty where it is not known."""


class Pinned(NamedTuple):
    """One line of requirements.txt with what follows it."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def pinned(text: str) -> Iterator[Pinned]:
    """What a requirements file pins. Raises ValueError for a requirement without a version or without a hash."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", text.strip()):
        lines = [line for line in block.splitlines() if not line.lstrip().startswith("#")]
        if not lines:
            continue
        found, hashes = _PIN.match(lines[0]), tuple(_HASH.findall(block))
        if not found or not hashes:
            raise ValueError(f"requirements.txt: expected NAME==VERSION with hashes, got {lines[0]!r}")
        yield Pinned(_normal(found["name"]), found["version"], (found["marker"] or "").strip(), hashes)


def bill(requirements: str, project: str, license_of: License) -> dict[str, Any]:
    """The bill of these files."""
    own = tomllib.loads(project)["project"]
    components = [_component(one, license_of) for one in sorted(pinned(requirements))]
    ours = f"pkg:pypi/{own['name']}@{own['version']}"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, ours + requirements)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": own["name"],
                "version": own["version"],
                "description": own["description"],
                "purl": ours,
            }
        },
        "components": components,
        "dependencies": [{"ref": ours, "dependsOn": [one["bom-ref"] for one in components]}],
    }


def installed_license(name: str, version: str) -> str:
    """What an installed package states of its licence; nothing of another version than the pinned one."""
    try:
        found = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ""
    if found["Version"] != version:
        return ""
    classifiers = [
        text.rpartition(" :: ")[2] for text in found.get_all("Classifier", []) if text.startswith("License ::")
    ]
    stated = found["License-Expression"] or " AND ".join(classifiers) or found["License"] or ""
    return " ".join(stated.split()) if len(stated) < 200 else ""  # some put the whole text there


def _component(one: Pinned, license_of: License) -> dict[str, Any]:
    purl = f"pkg:pypi/{one.name}@{one.version}"
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": purl,
        "name": one.name,
        "version": one.version,
        "scope": "optional" if one.marker else "required",
        "purl": purl,
        "externalReferences": [
            {
                "type": "distribution",
                "url": purl,
                "hashes": [{"alg": "SHA-256", "content": content} for content in sorted(one.hashes)],
            }
        ],
    }
    if one.marker:
        component["properties"] = [{"name": "deepseek-meter:environment-marker", "value": one.marker}]
    if stated := license_of(one.name, one.version):
        component["licenses"] = [{"license": {"name": stated}}]
    return component


def _normal(name: str) -> str:
    """A name as the index has it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    """Write the bill."""
    made = bill(REQUIREMENTS.read_text("utf-8"), PROJECT.read_text("utf-8"), installed_license)
    text = json.dumps(made, indent=2, ensure_ascii=False) + "\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(text, "utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
