"""A real Prometheus that scrapes processes, and what it answers. Shared with the tests."""

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml
from headwater_client.errors import ServerError

from deploy.local.process import free_port

_START_S, _POLL_S, _ANSWER_S, _STOP_S = 30.0, 0.1, 10.0, 30.0


@dataclass(frozen=True)
class Prometheus:
    """One that runs."""

    url: str
    pid: int

    def ask(self, query: str) -> dict[str, float]:
        """The values of an instant query, by what stands in their labels."""
        return {
            ",".join(name for _, name in sorted(each["metric"].items())): float(each["value"][1])
            for each in self._get("query", query=query)["result"]
        }

    def ask_one(self, query: str) -> float:
        """The value of a query that has one."""
        (value,) = self.ask(query).values()
        return value

    def list_firing(self) -> set[str]:
        """The alerts that fire now, by name."""
        alerts = self._get("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def _get(self, what: str, **query: str) -> dict[str, Any]:
        address = f"{self.url}/api/v1/{what}?{urlencode(query)}"
        with urllib.request.urlopen(address, timeout=_ANSWER_S) as answer:  # noqa: S310
            found = json.load(answer)
        if found["status"] != "success":
            raise ServerError(f"Prometheus: {found}")
        data: dict[str, Any] = found["data"]
        return data


@contextmanager
def run_prometheus(
    folder: Path,
    jobs: Mapping[str, Sequence[str]],
    rules: Path | None = None,
    key_file: Path | None = None,
) -> Iterator[Prometheus]:
    """Scrapes addresses every second, until the end of the block. `prometheus` is in the path.

    Args:
        folder: of its configuration and of what it keeps.
        jobs: the addresses of each job.
        rules: a file of alerts, which are evaluated every second.
        key_file: of the key that it says to those who ask for one.

    Raises:
        ServerError: it does not start.
    """
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(_configure(jobs, rules, key_file)))
    url = f"http://127.0.0.1:{free_port([])}"
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={url.removeprefix('http://')}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + _START_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerError(f"Prometheus does not start: see {folder / 'prometheus.log'}")
            time.sleep(_POLL_S)
        yield Prometheus(url, process.pid)
    finally:
        process.terminate()
        process.wait(_STOP_S)


def _configure(
    jobs: Mapping[str, Sequence[str]], rules: Path | None, key_file: Path | None
) -> dict[str, Any]:
    key = {"authorization": {"credentials_file": str(key_file)}} if key_file else {}
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": list(targets)}], **key}
            for job, targets in jobs.items()
        ],
    }


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=_ANSWER_S) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except urllib.error.URLError:
        return False
