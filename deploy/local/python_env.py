"""Python environments of their own, beside the application's: made by `uv` from their own locks."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headwater_client.errors import ServerError

from deploy.local.state import lock_file

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
