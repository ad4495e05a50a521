"""A service of the command line as a process, and questions to it by HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.harness.processes import end_process
from tests.harness.waiting import wait_until

READY_S = 120


@dataclass(frozen=True)
class HttpProcess:
    """A service that runs."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str


def call_json(url: str, method: str, body: Any, secret: str) -> Any:
    """Status and document of an answer; without a key where `secret` is ""."""
    headers = {"Content-Type": "application/json"}
    if secret:
        headers["Authorization"] = f"Bearer {secret}"
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, raw, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, _read(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _read(error)


def _read(answer: Any) -> Any:
    raw = answer.read()
    kind = answer.headers["Content-Type"].partition(";")[0]
    return json.loads(raw) if kind.endswith("json") else raw.decode()


@contextmanager
def running_service(
    command: str, port: int, variables: Mapping[str, str], folder: Path, probe: str
) -> Iterator[HttpProcess]:
    """`headwater COMMAND` until the end of the block; then it is told to stop, and ends well.

    Args:
        probe: the path that answers 200 once it is ready.
    """
    log, url = folder / f"{command}.log", f"http://127.0.0.1:{port}"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", command],
            env=variables,
            stdout=output,
            stderr=output,
        )

    def is_ready() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            return bool(call_json(url + probe, "GET", None, "")[0] == 200)
        except urllib.error.URLError:
            return False

    try:
        wait_until(is_ready, READY_S)
        yield HttpProcess(process, log, url)
    finally:
        end_process(process)
    assert process.returncode == 0, log.read_text()[-2000:]
