"""What the files of a model repository tell of its versions, for who looks: it needs no torch.

Nothing here raises for what stands in a folder: somebody may be writing it, or have damaged it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from headwater_client.documents import read_json
from headwater_client.errors import DataError
from msgspec import Struct

from features.inputs import MODEL_NAME
from trainer.gate import EVALUATION, VERDICTS, Verdict

MANIFEST = "manifest.json"
SERVED_FORM = "form.json"
KEPT_FOLDER = ".aside"
_KEPT = "kept-"
# Of the log of verdicts its end is read: some thousands of them.
MAX_VERDICT_BYTES = 8 * 1024 * 1024
MAX_FILE_BYTES = 8 * 1024 * 1024
KindT = TypeVar("KindT")


class EpochRecord(Struct, frozen=True):
    """`trainer.network.EpochOutcome`, as a manifest has it."""

    epoch: int
    loss: float | None
    held_out: float
    member: int = 1


class TrainingRecord(Struct, frozen=True):
    """`trainer.network.TrainingOutcome`, as a manifest has it."""

    epoch: int
    held_out: float
    seconds: float
    curve: tuple[EpochRecord, ...] = ()


class FileRecord(Struct, frozen=True):
    """`trainer.registry.checkpoint.FileDigest`, as a manifest has it."""

    sha256: str
    size_bytes: int


class VersionManifest(Struct, frozen=True, kw_only=True):
    """`trainer.registry.ModelManifest`, without what needs torch to be understood."""

    architecture: dict[str, Any]
    members: int = 1
    outcome: TrainingRecord
    settings: dict[str, dict[str, Any]] = {}
    created_ms: int
    trained_until_ms: int | None = None
    parent: int | None = None
    windows: tuple[int, ...] = ()
    metrics: dict[str, float] = {}
    code_revision: str
    files: dict[str, FileRecord]


class ParityRecord(Struct, frozen=True):
    """How alike a form and the graph answer (`deploy.optimize.variants.ParityReport`)."""

    requests: int
    overlap: float
    furthest: float | None
    ndcg: float
    graph_ndcg: float


class FormRecord(Struct, frozen=True, kw_only=True):
    """A form of a version: what serves it, or what was built of it besides."""

    form: str = ""
    served: str = ""
    folder: str | None = None
    refusal: str | None = None
    agreement: ParityRecord | None = None


@dataclass(frozen=True)
class StoredVersion:
    """A version as its folder has it.

    Attributes:
        is_kept: it is kept aside: it was refused, and can be published later.
        manifest: None where it cannot be read; `problem` says why.
        verdict: None where the gate did not judge it.
        served: the form that its folder serves; None: its graph as it was exported.
        forms: those that were built of it besides, refused ones too.
    """

    number: int
    is_kept: bool = False
    manifest: VersionManifest | None = None
    verdict: Verdict | None = None
    served: FormRecord | None = None
    forms: tuple[FormRecord, ...] = ()
    problem: str = ""


class VersionHistory:
    """Reads a model repository. What did not change since is not read again.

    Args:
        repository: the folder that Triton reads.
        optimised: where other forms of versions are built.
    """

    def __init__(self, repository: Path, optimised: Path) -> None:
        self._repository = repository
        self._model = repository / MODEL_NAME
        self._optimised = optimised
        self._known: dict[tuple[Path, object], StoredVersion] = {}
        self._verdicts: tuple[object, list[Verdict]] = (None, [])

    def read_versions(self) -> dict[int, StoredVersion]:
        """Those that are there, and those that are kept aside, by number.

        Raises:
            DataError: the folder cannot be read.
        """
        try:
            folders = {int(p.name): p for p in _list(self._model) if p.name.isdecimal()}
            aside = {
                int(p.name.removeprefix(_KEPT)): p
                for p in _list(self._repository / KEPT_FOLDER)
                if p.name.startswith(_KEPT) and p.name.removeprefix(_KEPT).isdecimal()
            }
        except OSError as error:
            raise DataError(
                f"model_repository: {error.filename}: {error.strerror}: let this process read it"
            ) from error
        known: dict[tuple[Path, object], StoredVersion] = {}
        for number, folder in {**aside, **folders}.items():
            stamp = _stamp(folder / MANIFEST), _stamp(self._forms_file(number))
            name = folder, (number, stamp)
            known[name] = self._known.get(name) or self._read(number, folder)
        self._known = known
        return {each.number: each for each in sorted(known.values(), key=lambda one: one.number)}

    def _read(self, number: int, folder: Path) -> StoredVersion:
        is_kept = folder.name.startswith(_KEPT)
        try:
            manifest = _read_file(folder / MANIFEST, VersionManifest)
        except DataError as error:
            return StoredVersion(number, is_kept, problem=str(error))
        problems = []

        def read(path: Path, kind: type[KindT]) -> KindT | None:
            try:
                return _read_file(path, kind) if path.exists() else None
            except (DataError, OSError) as error:
                problems.append(str(error))
                return None

        verdict = read(folder / EVALUATION, Verdict)
        served = read(folder / SERVED_FORM, FormRecord)
        forms = read(self._forms_file(number), list[FormRecord]) or ()
        return StoredVersion(
            number, is_kept, manifest, verdict, served, tuple(forms), "; ".join(problems)
        )

    def _forms_file(self, number: int) -> Path:
        return self._optimised / f"{number}.json"

    def read_verdicts(self) -> list[Verdict]:
        """The newest verdicts of the gate, oldest first, refused versions' too.

        A line that cannot be read, such as one of a disk that became full, is passed over.

        Raises:
            DataError: the log of verdicts cannot be read.
        """
        path = self._repository / VERDICTS
        stamp = _stamp(path)
        if stamp is None:
            return []
        if stamp != self._verdicts[0]:
            try:
                with path.open("rb") as file:
                    size = file.seek(0, 2)
                    file.seek(max(0, size - MAX_VERDICT_BYTES))
                    lines = file.read().splitlines()
            except OSError as error:
                raise DataError(f"{path}: {error.strerror}: let this process read it") from error
            found = (_decode_verdict(line) for line in lines)
            self._verdicts = stamp, [each for each in found if each is not None]
        return self._verdicts[1]


def _decode_verdict(line: bytes) -> Verdict | None:
    try:
        return read_json(line, Verdict)
    except ValueError:
        return None


def _list(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _stamp(path: Path) -> object:
    """Changes with a file; None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read_file(path: Path, kind: type[KindT]) -> KindT:
    """What a file holds.

    Raises:
        DataError: it cannot be read, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: is larger than {MAX_FILE_BYTES} bytes: none of Headwater's")
        return read_json(path.read_bytes(), kind)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error


def count_sizes(manifest: VersionManifest) -> int:
    """Bytes of all files of a version."""
    return sum(each.size_bytes for each in manifest.files.values())


def describe_values(values: Mapping[str, Any]) -> dict[str, str]:
    """Settings, or a shape, as text: nested ones stay JSON.

    >>> describe_values({"width": 64, "steps": [1, 2], "decay": True})
    {'width': '64', 'steps': '[1,2]', 'decay': 'true'}
    """
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in values.items()
    }
