"""deploy/kubernetes as kustomize renders it, and small questions to what came out. Needs kubectl; skipped where there is none."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

Manifest = dict[str, Any]

COMPONENT = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [../../base]\ncomponents: [../../components/{name}]\n"


class Objects(list[Manifest]):
    """What one kustomization renders to."""

    def of(self, kind: str) -> list[Manifest]:
        return [one for one in self if one["kind"] == kind]

    def one(self, kind: str, name: str = "deepseek-meter") -> Manifest:
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    @property
    def pod(self) -> Manifest:
        """The pod of the meter, as its template has it."""
        return self.one("StatefulSet")["spec"]["template"]

    @property
    def proxy(self) -> Manifest:
        (container,) = self.pod["spec"]["containers"]
        return container

    @property
    def settings_text(self) -> str:
        (config,) = self.of("ConfigMap")
        return config["data"]["meter.toml"]


def render(kubernetes: Path, folder: Path) -> dict[str, Objects]:
    """Base, every overlay, and the base with each component alone, by name. `folder` is for the last ones."""
    tree = folder / "kubernetes"
    shutil.copytree(kubernetes, tree)
    for component in (tree / "components").iterdir():
        alone = tree / "overlays" / f"component-{component.name}"
        alone.mkdir()
        (alone / "kustomization.yaml").write_text(COMPONENT.format(name=component.name))
    wanted = [tree / "base", *(tree / "overlays").iterdir()]
    return {path.name: Objects(_kustomized(path)) for path in wanted}


def _kustomized(path: Path) -> Iterator[Manifest]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is missing: install it to have the manifests rendered and checked")
    run = subprocess.run([kubectl, "kustomize", path], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return yaml.safe_load_all(run.stdout)


def mounted(pod: Manifest) -> dict[str, str]:
    """Names of the volumes of a pod's only container, by where they are mounted."""
    (container,) = pod["spec"]["containers"]
    return {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}


def secret_keys(objects: Objects) -> set[tuple[str, str]]:
    """Every key of the secret that is asked for, as (name of the secret, key)."""
    variables = [
        one["valueFrom"]["secretKeyRef"] for one in objects.proxy["env"] if "secretKeyRef" in one.get("valueFrom", {})
    ]
    monitors = [
        end["authorization"]["credentials"]
        for one in objects.of("PodMonitor")
        for end in one["spec"]["podMetricsEndpoints"]
    ]
    volumes = [one["secret"] for one in objects.pod["spec"]["volumes"] if "secret" in one]
    items = [(volume["secretName"], item["key"]) for volume in volumes for item in volume["items"]]
    return {(one["name"], one["key"]) for one in variables + monitors} | set(items)


def environment(container: Manifest, secret: dict[str, str], pod_ip: str) -> dict[str, str]:
    """The variables as the kubelet would set them: secrets looked up, `$(NAME)` of earlier ones put in."""
    found: dict[str, str] = {}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "value" in variable:
            found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda match: found[match[1]], variable["value"])
        elif "fieldRef" in source:
            assert source["fieldRef"]["fieldPath"] == "status.podIP"
            found[variable["name"]] = pod_ip
        elif source["secretKeyRef"]["key"] in secret:
            found[variable["name"]] = secret[source["secretKeyRef"]["key"]]
        else:
            assert source["secretKeyRef"]["optional"], variable
    return found


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """As `matchLabels` does."""
    return selector["matchLabels"].items() <= labels.items()
