"""What a service's probes answer."""

from __future__ import annotations

import json
import urllib.error
import urllib.request


def ask(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Status and text of an answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{host}:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def missing(port: int) -> dict[str, str]:
    """What a service says that it lacks."""
    found: dict[str, str] = json.loads(ask(port, "/readyz")[1])["missing"]
    return found


def is_ready(port: int) -> bool:
    """Whether a service, which may still be starting, lacks nothing."""
    try:
        return ask(port, "/readyz")[0] == 200
    except urllib.error.URLError:
        return False
