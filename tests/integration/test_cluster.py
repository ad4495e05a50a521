"""The Helm chart, given to a real kube-apiserver.

Takes ten minutes the first time: `uv run pytest -m cluster tests/integration/test_cluster.py`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.settings import default_cache_dir
from tests.harness import helm
from tests.harness.chart_values import REQUIRED, SITES, pods
from tests.harness.cluster import Cluster, build_programs, run_cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]
NAMESPACE = "shop"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One that refuses pods with rights, and knows what KEDA and Prometheus bring."""
    namespace = {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
        },
    }
    priority = {
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": "shop"},
        "value": 1,
    }
    with run_cluster(build_programs(), tmp_path_factory.mktemp("cluster")) as running:
        made = running.ask("apply", "--filename=-", given=[namespace, priority])
        assert made.returncode == 0, made.stderr
        known = str(default_cache_dir() / "cluster-resources")
        made = running.ask("apply", "--server-side", f"--filename={known}")
        assert made.returncode == 0, made.stderr
        waited = running.ask("wait", "--for=condition=Established", "crd", "--all")
        assert waited.returncode == 0, waited.stderr
        yield running


def make_pods(manifests: list[helm.Manifest]) -> Iterator[dict[str, Any]]:
    """Each pod as its controller would make it."""
    for name, template in pods(manifests):
        pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
        pod["metadata"]["name"] = f"{name}-0"
        # A job's says so itself.
        pod["spec"].setdefault("restartPolicy", "Always")
        yield pod


@pytest.mark.parametrize("name", SITES)
def test_a_cluster_takes_all_that_the_chart_makes(
    name: str, cluster: Cluster, tmp_path: Path
) -> None:
    manifests = helm.render(tmp_path, SITES[name])
    for asked in (manifests, list(make_pods(manifests))):
        done = cluster.try_out(asked, NAMESPACE)
        assert (done.returncode, done.stderr) == (0, "")
        assert len(done.stdout.splitlines()) == len(asked) > 0
        print(f"{name}: {len(asked)} taken")


def test_a_cluster_refuses_what_breaks_its_rules(cluster: Cluster, tmp_path: Path) -> None:
    """Without which the test above would say nothing."""
    manifests = helm.render(tmp_path, REQUIRED)
    pod = next(make_pods(manifests))
    (container,) = pod["spec"]["containers"]
    container["securityContext"]["allowPrivilegeEscalation"] = True
    refused = cluster.try_out([pod], NAMESPACE)
    assert refused.returncode != 0
    assert "violates PodSecurity" in refused.stderr
    service = next(each for each in manifests if each["kind"] == "Service")
    service["spec"]["port"] = 1
    refused = cluster.try_out([service], NAMESPACE)
    assert refused.returncode != 0
    assert 'unknown field "spec.port"' in refused.stderr
