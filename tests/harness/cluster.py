"""A real kube-apiserver over etcd, without nodes: what a cluster takes, and why not."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.harness.processes import end_process
from deploy.local.process import free_port
from deploy.settings import default_cache_dir
from tests.harness.waiting import wait_until

ROOT = Path(__file__).parents[2]
# Their versions are in go.mod.
MODULE = ROOT / "tools" / "cluster"
PROGRAMS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
NEEDS = "needs Go, and modules that can be fetched"
TOKEN = "for-tests-alone"
START_S = 120
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Cluster:
    """A cluster, asked by the commands that an operator uses."""

    kubectl: Path
    config: Path

    def ask(self, *command: str, given: Sequence[Any] = ()) -> subprocess.CompletedProcess[str]:
        """Run kubectl, with manifests as its input where there are any."""
        return subprocess.run(
            [str(self.kubectl), f"--kubeconfig={self.config}", *command],
            input=yaml.safe_dump_all(given) if given else None,
            capture_output=True,
            text=True,
            check=False,
        )

    def try_out(self, manifests: Sequence[Any], namespace: str) -> subprocess.CompletedProcess[str]:
        """Ask whether it would take them, to the last field; nothing is kept."""
        how = ("--dry-run=server", "--validate=strict", f"--namespace={namespace}", "--output=name")
        return self.ask("apply", *how, "--filename=-", given=manifests)


def build_programs() -> Path:
    """The folder of the servers' programs, built from their Go modules: ten minutes, once."""
    if shutil.which("go") is None:
        pytest.skip(NEEDS)
    folder = default_cache_dir() / "cluster"
    folder.mkdir(parents=True, exist_ok=True)
    for name, package in PROGRAMS.items():
        subprocess.run(
            ["go", "-C", str(MODULE), "build", "-ldflags=-s -w", "-o", str(folder / name), package],
            check=True,
        )
    return folder


@contextmanager
def run_cluster(programs: Path, folder: Path) -> Iterator[Cluster]:
    """Run one until the end of the block.

    Args:
        folder: an empty one, for what the servers write.
    """
    clients, peers, secure = free_port(), free_port(), free_port()
    key, tokens, config = folder / "key.pem", folder / "tokens.csv", folder / "kubeconfig.yaml"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    tokens.write_text(f"{TOKEN},admin,admin,system:masters\n")
    config.write_text(yaml.safe_dump(_make_config(secure)))
    etcd = [
        str(programs / "etcd"),
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls=http://{LOOPBACK}:{clients}",
        f"--advertise-client-urls=http://{LOOPBACK}:{clients}",
        f"--listen-peer-urls=http://{LOOPBACK}:{peers}",
        f"--initial-advertise-peer-urls=http://{LOOPBACK}:{peers}",
        f"--initial-cluster=default=http://{LOOPBACK}:{peers}",
    ]
    server = [
        str(programs / "kube-apiserver"),
        f"--etcd-servers=http://{LOOPBACK}:{clients}",
        f"--bind-address={LOOPBACK}",
        f"--secure-port={secure}",
        f"--cert-dir={folder / 'certificates'}",
        "--service-account-issuer=https://cluster.example",
        f"--service-account-key-file={key}",
        f"--service-account-signing-key-file={key}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        # A controller would make each namespace's own account, and there is none.
        "--disable-admission-plugins=ServiceAccount",
    ]
    cluster = Cluster(programs / "kubectl", config)
    with _running(etcd, folder / "etcd.log"), _running(server, folder / "apiserver.log"):
        wait_until(lambda: cluster.ask("get", "--raw", "/readyz").returncode == 0, START_S)
        yield cluster


def _make_config(port: int) -> dict[str, Any]:
    """How kubectl finds the server."""
    server = {"server": f"https://{LOOPBACK}:{port}", "insecure-skip-tls-verify": True}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": server}],
        "users": [{"name": "admin", "user": {"token": TOKEN}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
        "current-context": "test",
    }


@contextmanager
def _running(command: Sequence[str], log: Path) -> Iterator[None]:
    with log.open("wb") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            end_process(process)
