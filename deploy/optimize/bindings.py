"""Which TensorRT is installed: the full one, or TensorRT-RTX, which has the same Python API.

Engines of the full one are what Triton's backend runs. TensorRT-RTX builds without a GPU.
"""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import structlog

from deploy.optimize import NotHereError

log = structlog.get_logger()


class Kind(StrEnum):
    """The two packages, named as they are imported."""

    TENSORRT = "tensorrt"
    TENSORRT_RTX = "tensorrt_rtx"


def kinds() -> list[Kind]:
    """Those that are installed, the full one first."""
    return [kind for kind in Kind if _imported(kind)]


def bindings(kind: Kind) -> ModuleType:
    """The package.

    Raises:
        NotHereError: it is not installed.
    """
    module = _imported(kind)
    if module is None:
        raise NotHereError(
            f"{kind} is not installed: install NVIDIA's package for this machine's CUDA, or leave "
            "the version on ONNX Runtime"
        )
    return module


@cache
def logger(kind: Kind) -> Any:
    """TensorRT's logger into ours; one a process, as it wants."""
    module = bindings(kind)

    class Logger(module.ILogger):  # type: ignore[name-defined, misc]
        """Keeps the newest error: the calls themselves return nothing but None."""

        last_error = ""

        def log(self, severity: Any, message: str) -> None:
            line = " ".join(message.split())
            if severity <= module.ILogger.Severity.ERROR:
                self.last_error = line
                log.debug("tensorrt_error", kind=kind.value, message=line)

    return Logger()


def forgotten(kind: Kind) -> Any:
    """The logger, with nothing in it."""
    found = logger(kind)
    found.last_error = ""
    return found


@cache
def _imported(kind: Kind) -> ModuleType | None:
    try:
        return import_module(kind.value)
    except (ImportError, OSError):
        # OSError: the package is there, a library of CUDA that it needs is not.
        return None
