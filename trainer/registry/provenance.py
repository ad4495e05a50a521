"""Which code a version was made by."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 10


def code_revision(root: Path = ROOT) -> str:
    """The package's version, with the git revision of a checkout: `0.1.0+5c1e7a52...-dirty`.

    Args:
        root: the folder that the packages lie in.
    """
    try:
        released = version("headwater")
    except PackageNotFoundError:
        released = "unknown"
    return "+".join(part for part in (released, _git_revision(root)) if part)


def _git_revision(root: Path) -> str:
    """The revision, with `-dirty` after it where files were changed; empty without git."""
    git = shutil.which("git")
    # An installed package may lie within a checkout of something else: that is not its revision.
    if not git or not (root / ".git").exists():
        return ""
    describe = ["describe", "--always", "--dirty", "--exclude=*", "--abbrev=40"]
    try:
        done = subprocess.run(
            [git, "-C", str(root), *describe],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        # Not a checkout that git reads here, such as another user's.
        return ""
    return done.stdout.strip()
