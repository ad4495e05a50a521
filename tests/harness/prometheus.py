"""A real Prometheus that scrapes processes of a test, and what it answers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import pytest

from deploy.local.process import free_port
from tests.harness.waiting import wait_until

NEEDS = "needs Prometheus: apt-get download prometheus, dpkg -x it, and have its usr/bin in PATH"
_CONFIG = """
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs: [{{job_name: headwater, static_configs: [{{targets: {targets}}}]}}]
"""


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str
    pid: int

    def ask(self, query: str) -> dict[str, float]:
        """The values of an instant query, by what stands in their labels."""
        url = f"{self.url}/api/v1/query?{urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return {
            ",".join(name for _, name in sorted(each["metric"].items())): float(each["value"][1])
            for each in found["data"]["result"]
        }

    def ask_one(self, query: str) -> float:
        """The value of a query that has one."""
        (value,) = self.ask(query).values()
        return value


@contextmanager
def running_prometheus(folder: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Scrapes some addresses every second. Without its binary a test is skipped, but for CI's."""
    path = shutil.which("prometheus")
    if path is None and "CI" not in os.environ:
        pytest.skip(NEEDS)
    assert path, NEEDS
    config = folder / "prometheus.yml"
    config.write_text(_CONFIG.format(targets=json.dumps(list(targets))))
    url = f"http://127.0.0.1:{free_port([])}"
    command = [
        path,
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: _is_ready(url, process), 30)
        yield Prometheus(url, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def _is_ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "Prometheus has ended: see prometheus.log"
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False
