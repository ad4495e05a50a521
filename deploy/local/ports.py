"""Free ports of this machine."""

from __future__ import annotations

import socket
from collections.abc import Mapping

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are still timing out is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True


def choose(preferred: Mapping[str, int]) -> dict[str, int]:
    """A free port for each name: the preferred one, else one that the system hands out."""
    chosen: dict[str, int] = {}
    for name, port in preferred.items():
        free = is_free(port) and port not in chosen.values()
        chosen[name] = port if free else _handed_out({*chosen.values(), *preferred.values()})
    return chosen


def _handed_out(taken: set[int]) -> int:
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port not in taken:
            return port
