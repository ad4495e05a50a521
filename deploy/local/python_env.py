"""Python environments of their own, beside the application's: made by `uv` from their own locks."""

import ctypes
import hashlib
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec
from headwater_client.errors import ServerError

from deploy.local.process import lock_file

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@dataclass(frozen=True)
class PythonEnvironment:
    """What an environment is made of, and what is said about it.

    Args:
        name: of its folder in the cache.
        project: the folder of its `pyproject.toml` and `uv.lock`.
        owner: whose it is, for messages: `Triton's`.
        download: what the first making fetches, for messages: `60 MB`.
        remedy: what to do if it cannot be made.
    """

    name: str
    project: Path
    owner: str
    download: str
    remedy: str

    def prepare(self, cache_dir: Path, progress: Callable[[str], None]) -> Path:
        """The folder of the environment of today's lock, made if it is not there yet.

        Raises:
            ServerError: it cannot be made.
        """
        root = cache_dir / f"{self.name}-{self._fingerprint()}"
        complete = root / ".complete"
        if not complete.exists():
            cache_dir.mkdir(parents=True, exist_ok=True)
            with lock_file(
                root.with_suffix(".lock"), lambda: progress("waiting for its environment")
            ):
                if not complete.exists():
                    progress(f"making its environment (a {self.download} download the first time)")
                    self._sync(root)
                    complete.touch()
        return root

    def _fingerprint(self) -> str:
        """Changes with the lock and with the Python that it is for."""
        python = f"{PYTHON} {sys.base_prefix}".encode()
        return hashlib.sha256((self.project / "uv.lock").read_bytes() + python).hexdigest()[:12]

    def _sync(self, root: Path) -> None:
        command = [self._find_uv(), "sync", "--frozen", "--project", str(self.project)]
        command += ["--python", sys.executable]
        environment = clean_variables() | {"UV_PROJECT_ENVIRONMENT": str(root)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            words = " ".join(done.stderr.split())
            raise ServerError(
                f"{self.owner} environment cannot be made: {words}: check the network, "
                f"{self.remedy}"
            )

    def _find_uv(self) -> str:
        try:
            import uv

            return uv.find_uv_bin()
        except (ImportError, FileNotFoundError) as error:
            raise ServerError(
                f"uv, the maker of {self.owner} environment, is missing: "
                f"install headwater[local], {self.remedy}"
            ) from error


def clean_variables() -> dict[str, str]:
    """The variables of this process, without those that name another Python environment."""
    unset = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PROJECT")
    return {name: value for name, value in os.environ.items() if name not in unset}


# The Python environment of the local Triton: its own, made by `uv` from its own lock.


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
