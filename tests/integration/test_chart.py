"""What the chart says of a pod is what the process in it does: settings, port, probes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from headwater_client.contract import Scope

from deploy.local.process import free_port
from deploy.settings import Settings
from stream.api.keys import make_key, write_keys
from tests.harness import helm
from tests.harness.http_process import call_json, running_service

pytestmark = pytest.mark.integration


def container_of(manifest: helm.Manifest) -> dict[str, Any]:
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    found: dict[str, Any] = container
    return found


def variables_of(container: dict[str, Any], pod: str, root: Path) -> Iterator[tuple[str, str]]:
    """The environment as a cluster makes it for a pod of this name, below another root."""
    for each in container["env"]:
        yield each["name"], str(root) + each["value"] if "value" in each else pod


def test_processes_answer_the_probes_of_their_pods(empty_streams: Settings, tmp_path: Path) -> None:
    root = tmp_path / "root"
    kafka, store = empty_streams.kafka, empty_streams.store
    values = {
        "config": {
            "kafka": {"bootstrap_servers": kafka.bootstrap_servers, "partitions": kafka.partitions},
            "store": {"address": store.address},
            "triton": {"url": "127.0.0.1:9"},
            "worker": {"group": "chart", "metrics_port": free_port([])},
            "api": {"port": free_port([])},
        },
        "apiKeys": {"existingSecret": "headwater-keys"},
        "modelRepository": {"existingClaim": "models"},
        "windows": {"existingClaim": "windows"},
    }
    site = {(m["kind"], m["metadata"]["name"]): m for m in helm.render(tmp_path, values)}
    text = site["ConfigMap", "shop-headwater"]["data"]["headwater.toml"]
    for folder in ("/etc/headwater", "/var/lib/headwater", "/srv/headwater"):
        (root / folder[1:]).mkdir(parents=True, exist_ok=True)
        text = text.replace(f'"{folder}', f'"{root}{folder}')
    (root / "etc/headwater/headwater.toml").write_text(text)
    _, key = make_key("shop", [Scope.ASK], None)
    write_keys(root / "etc/headwater-keys/keys.toml", [key])
    with ExitStack() as stack:
        for kind, name, pod in (
            ("StatefulSet", "worker", "shop-headwater-worker-0"),
            ("Deployment", "api", "shop-headwater-api-5c9f-x2x"),
        ):
            container = container_of(site[kind, f"shop-headwater-{name}"])
            variables = dict(variables_of(container, pod, root))
            (port,) = [each["containerPort"] for each in container["ports"]]
            probes = {
                each: container[f"{each}Probe"]["httpGet"]["path"]
                for each in ("startup", "liveness", "readiness")
            }
            assert container["args"] == [name]
            service = stack.enter_context(
                running_service(
                    name, port, os.environ | variables, tmp_path, probe=probes["startup"]
                )
            )
            assert call_json(service.url + probes["liveness"], "GET", None, "")[0] == 200
            status, document = call_json(service.url + probes["readiness"], "GET", None, "")
            # No version is live yet, and only that is missing.
            assert status == 503
            assert "model" in document["missing"]
