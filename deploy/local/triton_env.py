"""The Python environment of the local Triton: its own, made by `uv` from its own lock."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import msgspec

from deploy.local.state import locked
from features.errors import ServerError

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
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
    root = cache_dir / f"triton-env-{_fingerprint(project)}"
    complete = root / ".complete"
    if not complete.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with locked(root.with_suffix(".lock"), lambda: progress("waiting for its environment")):
            if not complete.exists():
                progress("making its environment (a 60 MB download the first time)")
                _sync(project, root)
                complete.touch()
    return TritonEnvironment(root)


def _fingerprint(project: Path) -> str:
    """Changes with the lock and with the Python that it is for."""
    python = f"{PYTHON} {sys.base_prefix}".encode()
    return hashlib.sha256((project / "uv.lock").read_bytes() + python).hexdigest()[:12]


def _sync(project: Path, root: Path) -> None:
    uv = _find_uv()
    command = [uv, "sync", "--frozen", "--project", str(project), "--python", sys.executable]
    unset = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PROJECT")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    environment = inherited | {"UV_PROJECT_ENVIRONMENT": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        words = " ".join(done.stderr.split())
        raise ServerError(
            f"Triton's environment cannot be made: {words}: check the network, {REMEDY}"
        )


def _find_uv() -> str:
    try:
        import uv

        return uv.find_uv_bin()
    except (ImportError, FileNotFoundError) as error:
        raise ServerError(
            f"uv, the maker of Triton's environment, is missing: install headwater[local], {REMEDY}"
        ) from error


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
