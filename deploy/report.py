"""The JSON file that the demo and the benchmarks leave behind."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "headwater",
    "confluent-kafka",
    "faust-streaming",
    "feast",
    "onnxruntime",
    "torch",
    "tritonclient",
)


def write_report(path: Path, benchmark: str, program: str, figures: dict[str, Any]) -> None:
    """Write the figures with the command, the machine and the versions that led to them.

    Args:
        program: how the program is called, such as `headwater demo`; its arguments are added.
    """
    arguments = sys.argv[1 + len(program.split()[1:]) :] if "-m" not in program else sys.argv[1:]
    report = {
        "benchmark": benchmark,
        "command": f"uv run {program} {shlex.join(arguments)}".strip(),
        "machine": machine(),
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "figures": figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")


def machine() -> dict[str, Any]:
    """The machine in a few words."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": platform.platform(),
    }
