"""The Helm chart as a cluster would be given it, and what a cluster's own schemas say of that."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from deploy.settings import default_cache_dir

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "headwater"
CLUSTER = "1.34.0"
REQUIRED = "CHART_REQUIRED"
NEEDS_HELM = "needs Helm in PATH"
NEEDS_SCHEMAS = "needs the schemas of KEDA and the Prometheus Operator: fetch_schemas of .ci/run"
FETCHED = ("monitoring.coreos.com", "keda.sh")
Manifest = dict[str, Any]


def _find(path: Path | str | None, needs: str) -> str:
    """What is there. Without it a test is skipped; in CI it is there, and no test is."""
    if path is None and REQUIRED not in os.environ:
        pytest.skip(needs)
    assert path, needs
    return str(path)


def run_helm(
    folder: Path, values: Mapping[str, Any], command: Sequence[str] = ("template", "shop")
) -> subprocess.CompletedProcess[str]:
    """Run Helm over the chart with some values."""
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(dict(values)))
    binary = _find(shutil.which("helm"), NEEDS_HELM)
    asked = [binary, *command, str(CHART), "--namespace", "shop", "--values", str(file)]
    # Of its own accord Helm takes the cluster for one of the time when it was made.
    asked += ["--kube-version", CLUSTER]
    return subprocess.run(asked, capture_output=True, text=True, check=False)


def render(folder: Path, values: Mapping[str, Any]) -> list[Manifest]:
    """What a cluster would be given."""
    done = run_helm(folder, values)
    assert done.returncode == 0, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def find_problem(manifest: Manifest) -> str:
    """Why a cluster would not take it; "" where it would.

    Stricter than a cluster, which drops a field that it does not know and says nothing.
    """
    try:
        if manifest["apiVersion"].startswith(FETCHED):
            jsonschema.Draft7Validator(
                _own_schemas()[manifest["apiVersion"], manifest["kind"]]
            ).validate(manifest)
        else:
            kubernetes_validate.validate(manifest, CLUSTER, strict=True)
    except jsonschema.ValidationError as error:
        path = ".".join(map(str, error.absolute_path))
        return f"{manifest['kind']} {manifest['metadata']['name']}: {path}: {error.message[:300]}"
    return ""


@cache
def _own_schemas() -> dict[tuple[str, str], Any]:
    """Of the resources that others bring into a cluster: their schemas, by version and kind."""
    kept, found = default_cache_dir() / "cluster-resources", {}
    for path in Path(_find(kept if kept.exists() else None, NEEDS_SCHEMAS)).glob("*.yaml"):
        spec = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["spec"]
        for version in spec["versions"]:
            kind = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
            found[kind] = _close(version["schema"]["openAPIV3Schema"])
    return found


def _close(schema: Any) -> Any:
    """The schema, with fields that it does not name refused."""
    if isinstance(schema, list):
        return [_close(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _close(each) for name, each in schema.items()}
    is_open = "additionalProperties" in found or "x-kubernetes-preserve-unknown-fields" in found
    if isinstance(found.get("properties"), dict) and not is_open:
        found["additionalProperties"] = False
    return found
