"""The versions of the model in its repository, and who may change them.

    temporal_llm/7/               a version: whole, never changed
    .aside/lock                   held by the process that publishes
    .aside/draft-8/               a version that is being written
    .aside/unannounced-7          written before version 7 is seen, removed once it is announced
    .aside/removed-2/             a version that is being deleted

What is aside lies beside the model's folder, not in it: Triton takes a new file there for a change
of every version, and reloads them all.
"""

from __future__ import annotations

import errno
import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from headwater_client.errors import HeadwaterError, SettingsError

from features.inputs import MODEL_NAME
from trainer.disk import sync

ASIDE = ".aside"
LOCK = "lock"
DRAFT = "draft-"
REMOVED = "removed-"
UNANNOUNCED = "unannounced-"
_locked: set[Path] = set()


class RepositoryLockedError(HeadwaterError):
    """Another process publishes to the same repository."""


@dataclass(frozen=True)
class ModelVersion:
    """A version folder; `address` names it for any fsspec file system."""

    number: int
    folder: Path

    @property
    def address(self) -> str:
        return self.folder.resolve().as_uri()

    @property
    def repository(self) -> Path:
        return self.folder.parent.parent


def version_of(repository: Path, number: int) -> ModelVersion:
    """A version by its number, whether it is there or not."""
    return ModelVersion(number, repository / MODEL_NAME / str(number))


def version_numbers(model: Path) -> list[int]:
    """The versions of a model in its repository, ascending."""
    return sorted(int(one.name) for one in model.iterdir() if one.name.isdecimal())


@contextmanager
def publishing(repository: Path) -> Iterator[None]:
    """Be the only process that changes the repository, for the block; blocks may be nested.

    Threads of one process are not kept apart.

    The lock is the kernel's, and ends with the process that holds it. So what lies aside when it is
    taken is of dead processes, and is removed.

    Raises:
        RepositoryLockedError: another process holds it.
        SettingsError: the repository cannot be written.
    """
    model, aside = (repository / MODEL_NAME).resolve(), (repository / ASIDE).resolve()
    if aside in _locked:
        yield
        return
    try:
        model.mkdir(parents=True, exist_ok=True)
        aside.mkdir(exist_ok=True)
        # Not to be written: only to be locked.
        lock = (aside / LOCK).open("a")
    except OSError as error:
        raise SettingsError(
            f"model_repository: {repository}: cannot be written: {error.strerror}: name a folder "
            "that can be"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RepositoryLockedError(
                f"{repository}: another process publishes versions to it: wait until it has ended, "
                "or stop it; one trainer for a model repository"
            ) from error
        _locked.add(aside)
        try:
            _sweep(repository)
            yield
        finally:
            _locked.remove(aside)


def place(draft: Path, version: ModelVersion) -> None:
    """Give a draft its place, whole; until it is announced, `unannounced` has its number.

    Raises:
        RepositoryLockedError: there is such a version.
        OSError: it cannot be done; nothing of it is to be seen.
    """
    for path in (*draft.iterdir(), draft):
        sync(path)
    mark = _mark(version)
    mark.touch()
    sync(mark.parent)
    try:
        draft.rename(version.folder)
    except OSError as error:
        mark.unlink()
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise RepositoryLockedError(
                f"{version.folder}: written by another process meanwhile: run one trainer for a "
                "model repository, and train again"
            ) from error
        raise
    sync(version.folder.parent)


def unannounced(repository: Path) -> list[int]:
    """The versions that were placed and not announced yet, ascending."""
    names = (path.name for path in (repository / ASIDE).iterdir())
    return sorted(int(name[len(UNANNOUNCED) :]) for name in names if name.startswith(UNANNOUNCED))


def announced(version: ModelVersion) -> None:
    """Remember that a version was announced, or is no more to be."""
    _mark(version).unlink(missing_ok=True)


def remove(version: ModelVersion) -> None:
    """Remove a version that nobody uses: it is gone in one step, whatever dies."""
    aside = version.repository / ASIDE / f"{REMOVED}{version.number}"
    version.folder.rename(aside)
    sync(version.folder.parent)
    announced(version)
    shutil.rmtree(aside)


def _mark(version: ModelVersion) -> Path:
    return version.repository / ASIDE / f"{UNANNOUNCED}{version.number}"


def _sweep(repository: Path) -> None:
    for path in (repository / ASIDE).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK and not path.name.startswith(UNANNOUNCED):
            path.unlink()
    for number in unannounced(repository):
        version = version_of(repository, number)
        if not version.folder.is_dir():
            announced(version)
