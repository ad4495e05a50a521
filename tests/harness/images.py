"""Images built from the tree without a registry, and containers of them (buildah, podman)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "deploy" / "images"
PROGRAMS = ("mmdebstrap", "buildah", "podman", "runc")
NEEDS = f"needs {', '.join(PROGRAMS)}: apt-get install {' '.join(PROGRAMS)}"
# Where containers run in a container themselves: no systemd, and limits that cannot be raised.
ENGINE = ("podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs")
CONFINED = (
    "--network=host",
    "--ulimit=nofile=1024:4096",
    "--ulimit=nproc=4096:4096",
    "--read-only",
    # Podman would put file systems that can be written over /tmp, /run and /var/tmp.
    "--read-only-tmpfs=false",
    "--user=12345",
    "--cap-drop=all",
    "--security-opt=no-new-privileges",
    "--shm-size=64m",
)


@dataclass(frozen=True)
class Image:
    """A built one.

    Attributes:
        sbom: what is in it (CycloneDX).
    """

    name: str
    sbom: Path

    def describe(self) -> dict[str, Any]:
        """What podman knows of it."""
        told = subprocess.run(
            [*ENGINE, "image", "inspect", self.name], check=True, capture_output=True
        )
        [found] = json.loads(told.stdout)
        return dict(found)

    def run_python(self, code: str) -> str:
        """Run a program in it, confined; what it prints."""
        command = [*ENGINE, "run", "--rm", *CONFINED, _enter("python"), self.name, "-c", code]
        told = subprocess.run(command, check=False, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        return told.stdout.strip()

    def command(
        self, container: str, variables: Mapping[str, str], folders: Sequence[Path]
    ) -> list[str]:
        """What runs `headwater` in a confined container: the command's arguments follow.

        Args:
            variables: its environment, of which the values are passed on by name.
            folders: of this machine that it may read.
        """
        given = [f"--env={name}" for name in variables]
        mounted = [f"--volume={folder}:{folder}:ro" for folder in folders]
        options = [f"--name={container}", "--rm", *CONFINED, _enter("headwater"), *given, *mounted]
        return [*ENGINE, "run", *options, self.name]


def _enter(program: str) -> str:
    """An entry point that takes HOME away, which podman sets for everyone."""
    return f"--entrypoint={json.dumps(['env', '-u', 'HOME', program])}"


def build(name: str) -> Image:
    """Build an image on a base of Debian's packages; without the programs the test is skipped."""
    if not all(shutil.which(program) for program in PROGRAMS):
        pytest.skip(NEEDS)
    base = _run([str(SCRIPTS / "debian-base")], {})
    told = _run([str(SCRIPTS / "build"), name], {"BUILDER": "buildah", "BASE": base})
    built, sbom = told.splitlines()[-1].split()
    return Image(f"localhost/{built}", ROOT / sbom)


def _run(command: Sequence[str], variables: Mapping[str, str]) -> str:
    """Run a script of ours; what it prints last."""
    told = subprocess.run(
        command, env={**os.environ, **variables}, check=False, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr[-4000:]
    return told.stdout.strip()


@contextmanager
def remove_container_after(container: str) -> Iterator[None]:
    """A container of this name is gone after the block, whatever became of who started it."""
    try:
        yield
    finally:
        subprocess.run([*ENGINE, "rm", "--force", container], check=False, capture_output=True)
