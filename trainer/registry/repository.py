"""The versions of the model in their folder, and who may change them.

    temporal_llm/7/               a version: whole, never changed
    last_version                  the highest number that a version ever had
    .aside/lock                   held by the process that publishes
    .aside/draft-8/               a version that is being written
    .aside/unannounced-7          written before version 7 is seen, removed once it is announced
    .aside/reserved-3             version 3 is about to be tried out: it is not removed
    .aside/kept-6/                a version that Triton, or the controller, refused
    .aside/removed-2/             a version that is being deleted

What is aside lies beside the model's folder, not in it: Triton takes a new file there for a change
of every version, and reloads them all.
"""

import errno
import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from uuid import uuid4

import structlog
from headwater_client.errors import DataError, HeadwaterError, SettingsError

from features.inputs import MODEL_NAME
from trainer.disk import replace_synced, sync
from trainer.registry import checkpoint
from trainer.registry.lock_holder import announce_holder, find_other_holder

STAGING = ".aside"
LOCK = "lock"
REMOVED = "removed-"
UNANNOUNCED = "unannounced-"
RESERVED = "reserved-"
KEPT = "kept-"
PROBE = "headwater_probe_"
LAST_VERSION = "last_version"
# Whoever reserves a version has been answered by then, or is dead.
RESERVED_S = 120.0
# Versions that were refused are published within some trainings, or never.
MOST_KEPT = 3
log = structlog.get_logger()


class RepositoryLockedError(HeadwaterError):
    """Another process publishes to the same repository."""


@dataclass(frozen=True)
class ModelVersion:
    """A version's number and folder; `address` names the folder for any fsspec file system."""

    number: int
    folder: Path

    @property
    def address(self) -> str:
        return self.folder.resolve().as_uri()


class ModelRepository:
    """The folder of versions that Triton reads; reading it needs no lock.

    Attributes:
        folder: where it is.
        model: the folder in it that has the versions, and their `config.pbtxt`.
        staging: the folder beside that for what is not a version yet, or no more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = folder / MODEL_NAME
        self.staging = folder / STAGING
        self._lock_depth = 0

    def version(self, number: int) -> ModelVersion:
        """A version by its number, whether it is there or not."""
        return ModelVersion(number, self.model / str(number))

    def version_numbers(self) -> list[int]:
        """The versions that are there, ascending."""
        if not self.model.is_dir():
            return []
        return sorted(int(path.name) for path in self.model.iterdir() if path.name.isdecimal())

    def existing_version(self, number: int | None = None) -> ModelVersion:
        """A version that is there; the newest where no number is given.

        Raises:
            DataError: there is no such version; it names those that there are.
        """
        numbers = self.version_numbers()
        if not numbers:
            raise DataError(f"{self.model}: no version in it: `headwater train` makes one")
        if number is not None and number not in numbers:
            raise DataError(
                f"{self.model}: no version {number}: it has {', '.join(map(str, numbers))}"
            )
        return self.version(numbers[-1] if number is None else number)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the only process that changes the repository, for the block; blocks may be nested.

        Threads that share this object are not kept apart.

        The lock is the kernel's, and ends with the process that holds it. So what lies in staging
        when it is taken is of dead processes, and is removed. Some volumes grant it to everybody:
        so whoever holds it also says so in the file (`LockHolder`).

        Raises:
            RepositoryLockedError: another process holds it.
            SettingsError: the repository cannot be written.
        """
        if self._lock_depth:
            self._lock_depth += 1
            try:
                yield
            finally:
                self._lock_depth -= 1
            return
        with self._lock_file() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise self._lock_error("another process") from error
            except OSError as error:
                # A volume without such locks: what the file says has to do.
                log.warning("no_locks_here", folder=str(self.folder), reason=error.strerror)
            if other := find_other_holder(file.fileno(), self.staging / LOCK):
                raise self._lock_error(f"process {other.pid} on {other.host}")
            with announce_holder(file.fileno()):
                self._lock_depth = 1
                try:
                    self._sweep()
                    yield
                finally:
                    self._lock_depth = 0

    def _lock_error(self, who: str) -> RepositoryLockedError:
        return RepositoryLockedError(
            f"{self.folder}: {who} publishes versions to it: wait until it has ended, or stop it; "
            "one trainer for a model repository"
        )

    def last_number(self) -> int:
        """The highest number that a version ever had, be it removed by now; 0 for none."""
        remembered = 0
        with suppress(OSError, ValueError):
            remembered = int((self.folder / LAST_VERSION).read_text())
        return max([remembered, *self.version_numbers(), *self.list_kept()])

    def list_kept(self) -> list[int]:
        """The versions that were refused and can be published later, ascending."""
        return self._list_aside(KEPT)

    def put_aside(self, version: ModelVersion) -> None:
        """Keep a version that got no traffic, to be published later; only the newest are kept."""
        self._remember(version)
        version.folder.rename(self.staging / f"{KEPT}{version.number}")
        sync(version.folder.parent)
        self.mark_announced(version)
        for number in self.list_kept()[:-MOST_KEPT]:
            shutil.rmtree(self.staging / f"{KEPT}{number}")

    def put_back(self, number: int | None = None) -> ModelVersion:
        """Give a version that was put aside its place again; the newest where none is named.

        Raises:
            DataError: there is no such version aside, or it is damaged.
        """
        kept = self.list_kept()
        if not kept or number not in (None, *kept):
            there = f"there are {', '.join(map(str, kept))}" if kept else "there is none"
            which = "no version" if number is None else f"version {number}: not"
            raise DataError(f"{self.folder}: {which} kept aside to be published: {there}")
        version = self.version(number or kept[-1])
        aside = self.staging / f"{KEPT}{version.number}"
        checkpoint.verify(aside)
        self.commit(aside, version)
        return version

    @contextmanager
    def probe_folder(self) -> Iterator[Path]:
        """A folder for a model beside ours, not made yet, for the block.

        Raises:
            SettingsError: the repository cannot be written.
        """
        folder = self.folder / f"{PROBE}{uuid4().hex[:8]}"
        try:
            yield folder
        except OSError as error:
            raise self._unwritable(error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def attempt(self, version: ModelVersion) -> str:
        """Names the attempt to release a version: another one once it was put aside and back."""
        mark = self._mark(version)
        since = mark.stat().st_mtime_ns if mark.exists() else 0
        return f"{version.number}-{since}"

    def reserve(self, version: ModelVersion) -> None:
        """Keep a version from being removed for a while: it is about to get traffic.

        It needs no lock, which a training may hold for an hour. Who may only read reserves nothing.
        """
        with suppress(OSError):
            (self.staging / f"{RESERVED}{version.number}").touch()

    def list_reserved(self) -> list[int]:
        """The versions that are about to get traffic, ascending."""
        since_s = time.time() - RESERVED_S
        found = []
        for number in self._list_aside(RESERVED):
            with suppress(FileNotFoundError):
                if (self.staging / f"{RESERVED}{number}").stat().st_mtime > since_s:
                    found.append(number)
        return found

    def commit(self, staged: Path, version: ModelVersion) -> None:
        """Give a staged folder its place, whole; until it is announced it counts as unannounced.

        Raises:
            RepositoryLockedError: there is such a version.
            OSError: it cannot be done; nothing of it is to be seen.
        """
        for path in (*staged.iterdir(), staged):
            sync(path)
        mark = self._mark(version)
        mark.touch()
        sync(mark.parent)
        try:
            staged.rename(version.folder)
        except OSError as error:
            mark.unlink()
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise RepositoryLockedError(
                    f"{version.folder}: written by another process meanwhile: run one trainer for "
                    "a model repository, and train again"
                ) from error
            raise
        sync(version.folder.parent)
        with suppress(OSError):
            # Whoever takes it away remembers its number, too.
            self._remember(version)

    def list_unannounced(self) -> list[int]:
        """The versions that were committed and not announced yet, ascending."""
        return self._list_aside(UNANNOUNCED)

    def mark_announced(self, version: ModelVersion) -> None:
        """Remember that a version was announced, or is no more to be."""
        self._mark(version).unlink(missing_ok=True)
        (self.staging / f"{RESERVED}{version.number}").unlink(missing_ok=True)

    def remove(self, version: ModelVersion) -> bool:
        """Remove a version that nobody uses: it is gone in one step, whatever dies.

        Returns:
            False where somebody reserved it meanwhile: it stays.
        """
        aside = self.staging / f"{REMOVED}{version.number}"
        self._remember(version)
        version.folder.rename(aside)
        # Whoever reserves looks for the folder after that: one of the two sees the other.
        if version.number in self.list_reserved():
            aside.rename(version.folder)
            return False
        sync(version.folder.parent)
        self.mark_announced(version)
        shutil.rmtree(aside)
        return True

    def _remember(self, version: ModelVersion) -> None:
        """A number is never given again: workers keep what they read of a version by its folder."""
        if self.last_number() > version.number:
            return
        replace_synced(self.folder / LAST_VERSION, f"{version.number}\n".encode())

    def _list_aside(self, prefix: str) -> list[int]:
        names = (path.name.removeprefix(prefix) for path in self.staging.glob(f"{prefix}*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _lock_file(self) -> IO[str]:
        """The file that is locked."""
        try:
            self.model.mkdir(parents=True, exist_ok=True)
            self.staging.mkdir(exist_ok=True)
            (self.staging / LOCK).touch()
            return (self.staging / LOCK).open("r+")
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> SettingsError:
        return SettingsError(
            f"model_repository: {self.folder}: cannot be written: {error.strerror}: name a "
            "folder that can be"
        )

    def _mark(self, version: ModelVersion) -> Path:
        return self.staging / f"{UNANNOUNCED}{version.number}"

    def _sweep(self) -> None:
        for path in self.folder.glob(f"{PROBE}*"):
            shutil.rmtree(path)
        for path in self.staging.iterdir():
            if path.name == LOCK or path.name.startswith((UNANNOUNCED, RESERVED, KEPT)):
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for number in self.list_unannounced():
            version = self.version(number)
            if not version.folder.is_dir():
                self.mark_announced(version)
