"""The Python environment of the local Triton: its own, made by `uv` from its own lock."""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import msgspec
from headwater_client.errors import ServerError

from deploy.local.python_env import PYTHON, PythonEnvironment

REMEDY = "or set HEADWATER_TRITON__URL"


class TritonEnvironment(msgspec.Struct, frozen=True):
    """Where the parts of an installed Triton lie."""

    root: Path

    @property
    def packages(self) -> Path:
        return self.root / "lib" / f"python{PYTHON}" / "site-packages"

    @property
    def _triton(self) -> Path:
        return self.packages / "pytriton" / "tritonserver"

    @property
    def server(self) -> Path:
        return self._triton / "bin" / "tritonserver"

    @property
    def python_backend(self) -> Path:
        return self._triton / "backends" / "python"

    @property
    def stub(self) -> Path:
        """The process in which the Python backend runs a model."""
        return self._triton / "python_backend_stubs" / PYTHON / "triton_python_backend_stub"

    @property
    def libraries(self) -> Path:
        return self.packages / "nvidia_pytriton.libs"


def prepare(cache_dir: Path, progress: Callable[[str], None]) -> TritonEnvironment:
    """The environment of today's lock, made if it is not there yet. ServerError if it cannot."""
    project = Path(str(resources.files("deploy") / "triton" / "env"))
    environment = PythonEnvironment("triton-env", project, "Triton's", "60 MB", REMEDY)
    return TritonEnvironment(environment.prepare(cache_dir, progress))


def python_library_folder() -> Path | None:
    """Where this Python's shared library is; None if the system's loader finds it by itself.

    Triton's stub links to it; a Python built without one cannot run the stub.
    """
    name = f"libpython{PYTHON}.so.1.0"
    for folder in (sysconfig.get_config_var("LIBDIR"), f"{sys.base_prefix}/lib"):
        if folder and (Path(folder) / name).exists():
            return Path(folder)
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise ServerError(
            f"Triton's Python backend needs {name}, which this Python comes without: install "
            f"libpython{PYTHON}, or use a Python of uv's (uv python install {PYTHON}), {REMEDY}"
        ) from error
    return None
