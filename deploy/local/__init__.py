"""Real servers on this machine: Kafka, the feature store and Triton under one state folder."""

from deploy.local.servers import (
    NAMES,
    ServerStatus,
    addresses,
    connect,
    down,
    find_ailment,
    log_path,
    status,
    up,
)

__all__ = [
    "NAMES",
    "ServerStatus",
    "addresses",
    "connect",
    "down",
    "find_ailment",
    "log_path",
    "status",
    "up",
]
