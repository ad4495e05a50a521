"""The windows at an address: each is whole, or is not.

    _manifests/00000042.json                       the window exists: created only if absent
    date=2026-11-24/window-00000042.parquet        its rows, by the date of its first event
    date=2026-11-24/window-00000042-<unique>.parquet   instead, once somebody was taken out of them
    .aside/window-00000042-<unique>.parquet        rows before their manifest; of no meaning without

Of two writers of one number, one creates the manifest. What it names cannot be anybody else's file,
because names aside are unique. Whatever dies in between leaves a file aside that nothing names.

Files that are whole or absent, on a local disk or any other file system that fsspec knows.

Locally a file is written aside, synced, and linked or renamed to its name. On an object store one
put makes an object, and it appears whole.
"""

import errno
import hashlib
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import structlog
import xxhash
from fsspec.implementations.local import LocalFileSystem
from headwater_client.documents import DocumentError, read_json
from headwater_client.errors import DataError, HeadwaterError, SettingsError
from msgspec import Struct

from features.events import current_ms, latest_reference_ms
from trainer.datasets import Log
from trainer.disk import replace_synced, sync, write_synced
from trainer.windows.assembler import AssemblyState, ClosedWindow, CloseReason, leave_out
from trainer.windows.events import WindowEvent, from_table, to_table

log = structlog.get_logger()
ASIDE = ".aside"


class Files:
    """Files below an address; paths are relative to it, with `/`.

    Raises:
        SettingsError: fsspec does not know the address, or lacks a package for it.
    """

    def __init__(self, address: str) -> None:
        try:
            # A path is taken as it is: `a::b` would be two addresses to fsspec.
            is_path = "://" not in address
            self._fs, root = (
                (LocalFileSystem(), str(Path(address).absolute()))
                if is_path
                else fsspec.core.url_to_fs(address)
            )
        except Exception as error:
            # Each file system raises what it likes: a package that is missing, a host that is away.
            said = " ".join(str(error).split()) or type(error).__name__
            raise SettingsError(f"windows.address: {address}: {said}") from error
        self._root = root.rstrip("/")
        self._local = isinstance(self._fs, LocalFileSystem)

    def address(self, path: str) -> str:
        """The whole address of a file, for messages and other programs."""
        return str(self._fs.unstrip_protocol(self._path(path)))

    def read(self, path: str) -> bytes:
        """A file's content.

        Raises:
            FileNotFoundError: there is none.
            DataError: it cannot be read.
        """
        with self._readable(path):
            return bytes(self._fs.cat_file(self._path(path)))

    def exists(self, path: str) -> bool:
        """Whether there is such a file."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(self._path(path)))

    def names(self, folder: str) -> list[str]:
        """The names in a folder, none where it does not exist."""
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError), self._readable(folder):
            return [str(each).rsplit("/", 1)[-1] for each in self._fs.ls(self._path(folder), False)]
        return []

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""
        with suppress(FileNotFoundError):
            self._fs.rm_file(self._path(path))

    def put(self, path: str, content: bytes) -> None:
        """Write a file that nobody looks for yet."""
        self._make_folder_of(path)
        if self._local:
            write_synced(Path(self._path(path)), content)
        else:
            self._fs.pipe_file(self._path(path), content)

    def create(self, path: str, content: bytes) -> None:
        """Write a file that must not exist; of several writers at once, one succeeds.

        Raises:
            FileExistsError: it does.
        """
        self._make_folder_of(path)
        if self._local:
            self._link(path, content)
        else:
            self._fs.pipe_file(self._path(path), content, mode="create")

    def keeps_what_is_there(self) -> bool:
        """Whether `create` leaves alone what is there; True where nothing can be written now.

        Raises:
            SettingsError: the disk has no links, by which a file is made whole or not at all.
        """
        path = f"{ASIDE}/probe-{uuid4()}"
        try:
            self.create(path, b"")
            self.create(path, b"")
        except FileExistsError:
            return True
        except OSError as error:
            if self._local and error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise SettingsError(
                    f"windows.address: {self._root}: a disk without hard links: use another, or an "
                    "object store"
                ) from error
            return True
        finally:
            with suppress(Exception):
                self.remove(path)
        return False

    def replace(self, path: str, content: bytes) -> None:
        """Write a file in place of another; who reads finds one of both, whole."""
        if self._local:
            replace_synced(Path(self._path(path)), content)
        else:
            self._fs.pipe_file(self._path(path), content)

    def move(self, path: str, target: str) -> None:
        """Give a file another name; locally at once, else as a copy that appears whole."""
        self._make_folder_of(target)
        if self._local:
            Path(self._path(path)).rename(self._path(target))
            sync(Path(self._path(target)).parent)
        else:
            self._fs.cp_file(self._path(path), self._path(target))
            self.remove(path)

    @contextmanager
    def _readable(self, path: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise DataError(f"{self.address(path)}: cannot be read: {error}") from error

    def _link(self, path: str, content: bytes) -> None:
        """A rename would replace what is there; a link to a whole file does not."""
        target, aside = Path(self._path(path)), f"{ASIDE}/{uuid4()}"
        self.put(aside, content)
        try:
            target.hardlink_to(self._path(aside))
        finally:
            self.remove(aside)
        sync(target.parent)

    def _make_folder_of(self, path: str) -> None:
        self._fs.makedirs(self._path(path).rsplit("/", 1)[0], exist_ok=True)

    def _path(self, path: str) -> str:
        return f"{self._root}/{path}"


MANIFESTS = "_manifests"
SCHEMA_KEY = b"headwater_schema"
_MANIFEST = re.compile(r"(\d+)\.json")
_ASIDE = re.compile(r"window-(\d+)-.*")


class ConcurrentWriterError(HeadwaterError):
    """Another process writes windows at the same address."""


@dataclass(frozen=True)
class Window:
    """A window's manifest and rows."""

    manifest: "WindowManifest"
    rows: list[WindowEvent]


@dataclass(frozen=True)
class StagedWindow:
    """A window that is not written yet: its manifest, and its file's content."""

    manifest: "WindowManifest"
    content: bytes


class WindowStore:
    """The windows at an address, numbered from 1 without gaps.

    Args:
        address: a folder, or what fsspec knows. What is not a local disk has to keep a put "only
            if absent", as S3, Google's and Azure's stores do.

    Raises:
        SettingsError: the address cannot be used.
    """

    def __init__(self, address: str) -> None:
        self._files = Files(address)

    def check(self) -> None:
        """Find out whether of two writers of one number only one can succeed.

        Raises:
            SettingsError: both would, and each would lose the other's events.
        """
        if not self._files.keeps_what_is_there():
            raise SettingsError(
                f"windows.address: {self._files.address('')}: writes over a file that must not "
                "exist, so that two writers would lose events: use a store that puts only if "
                "absent (S3, Google's, Azure's), or a local disk"
            )

    def numbers(self) -> list[int]:
        """The windows that there are, ascending."""
        found = map(_MANIFEST.fullmatch, self._files.names(MANIFESTS))
        return sorted(int(each[1]) for each in found if each)

    def newest(self) -> "WindowManifest | None":
        """The newest window; None where there is none."""
        numbers = self.numbers()
        return self.manifest(numbers[-1]) if numbers else None

    def manifest(self, number: int) -> "WindowManifest":
        """What a window is.

        Raises:
            CorruptWindowError: it cannot be read.
        """
        path = _manifest_path(number)
        try:
            return unseal(self._files.read(path), self._files.address(path))
        except FileNotFoundError as error:
            raise CorruptWindowError(
                self._files.address(path), "no such window", "see `headwater windows list`"
            ) from error

    def read(self, number: int, person: str = "") -> Window:
        """A window with its rows.

        Args:
            person: of whom alone, where one is named.

        Raises:
            CorruptWindowError: it cannot be read, or is not as it was written.
        """
        manifest, table = self._load(number)
        if person:
            table = table.filter(pc.equal(table["user_id"], person))
        return Window(manifest, from_table(table))

    def read_columns(self, number: int, columns: Sequence[str]) -> Any:
        """Some columns of a window's rows, as a pyarrow.Table: for who counts, and needs no events.

        Raises:
            CorruptWindowError: it cannot be read, or is not as it was written.
        """
        _, table = self._load(number, columns)
        return table

    def erase(self, person: str, newest: int) -> int:
        """Take a person's events out of the windows up to a number.

        Each window stays whole: its other rows are written under a new name, its manifest names
        them, then the old file goes. May be called again after an OSError.

        Returns:
            how many events they were. Of a window that cannot be read it is logged that it may
            still have some.

        Raises:
            OSError: a file cannot be written or removed, now.
        """
        numbers = [number for number in self.numbers() if number <= newest]
        removed = sum(self._erase_from(number, person) for number in numbers)
        self._sweep(max(numbers, default=0))
        return removed

    def _erase_from(self, number: int, person: str) -> int:
        try:
            manifest, table = self._load(number)
        except CorruptWindowError as error:
            log.warning("window_not_searched", window=number, reason=str(error))
            return 0
        if not self._files.exists(manifest.file):
            self.place(manifest)
        others = table.filter(pc.not_equal(table["user_id"], person))
        merges = leave_out(person, manifest.merges)
        removed = len(table) - len(others)
        if removed or merges != manifest.merges:
            content = _encode(others)
            changed = msgspec.structs.replace(
                manifest,
                file=f"{manifest.file.rpartition('/')[0]}/{_name(number)}-{uuid4()}.parquet",
                # Whatever is aside has the person: nothing may be put in this one's place.
                aside=_name_aside(number),
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
                events=len(others),
                late=pc.sum(others["late"]).as_py() or 0,
                repeated=pc.sum(others["repeated"]).as_py() or 0,
                merges=merges,
                replaced=(*manifest.replaced, manifest.sha256),
            )
            self._files.put(changed.file, content)
            self._files.replace(_manifest_path(number), seal(changed))
            manifest = changed
        self._remove_older(manifest)
        return removed

    def _remove_older(self, manifest: "WindowManifest") -> None:
        """Remove what a manifest names no more; who died may have left more than one file."""
        folder, _, name = manifest.file.rpartition("/")
        for each in self._files.names(folder):
            if each.startswith(_name(manifest.number)) and each != name:
                self._files.remove(f"{folder}/{each}")

    def _load(
        self, number: int, columns: Sequence[str] | None = None
    ) -> tuple["WindowManifest", Any]:
        manifest = self.manifest(number)
        try:
            return manifest, self._table(manifest, columns)
        except CorruptWindowError:
            # Somebody may have been taken out of it in between: then its file is another.
            now = self.manifest(number)
            if now == manifest:
                raise
            return now, self._table(now, columns)

    def _table(self, manifest: "WindowManifest", columns: Sequence[str] | None = None) -> Any:
        address = self._files.address(manifest.file)
        content = self._content(manifest, address)
        if hashlib.sha256(content).hexdigest() != manifest.sha256:
            raise CorruptWindowError(
                address, "is damaged: its checksum differs", "put it back from a copy"
            )
        chosen = None if columns is None else list(columns)
        # In this thread: a command that ends at once would abort while Arrow starts its own.
        file = pq.ParquetFile(pa.BufferReader(content), pre_buffer=False)
        return file.read(chosen, use_threads=False)

    def address(self, manifest: "WindowManifest") -> str:
        """Where a window's rows are."""
        return self._files.address(manifest.file)

    def prepare(self, number: int, closed: ClosedWindow) -> StagedWindow:
        """A window as it will be written, under a name that nobody else uses."""
        content = _parquet(closed.rows)
        return StagedWindow(_describe(number, closed, content), content)

    def write(self, draft: StagedWindow) -> None:
        """Write the next window, whole; may be called again with the same draft after an OSError.

        Raises:
            ConcurrentWriterError: there is one of this number.
            OSError: it cannot be written, now; nothing of it is to be seen.
        """
        # Never removed after a failure: the manifest may be there though the store did not say so.
        self._files.put(draft.manifest.aside, draft.content)
        self._create(draft.manifest)
        self.place(draft.manifest)

    def place(self, manifest: "WindowManifest") -> None:
        """Give the newest window's file its name, if a writer died before it could.

        Raises:
            CorruptWindowError: the file is gone.
        """
        try:
            self._files.move(manifest.aside, manifest.file)
        except FileNotFoundError:
            if not self._files.exists(manifest.file):
                address = self._files.address(manifest.file)
                raise CorruptWindowError(address, "is gone", "put it back from a copy") from None
        self._sweep(manifest.number)

    def _create(self, manifest: "WindowManifest") -> None:
        path = _manifest_path(manifest.number)
        try:
            self._files.create(path, seal(manifest))
        except FileExistsError:
            # An object store may have done what it then failed to confirm.
            if self.manifest(manifest.number) != manifest:
                raise ConcurrentWriterError(
                    f"{self._files.address(path)}: written by another writer: run one for an "
                    "address; nothing is lost, the other one has gone on from the same place"
                ) from None

    def _sweep(self, number: int) -> None:
        """Remove what dead writers left aside. A higher number may be of one that lives."""
        for name in self._files.names(ASIDE):
            found = _ASIDE.fullmatch(name)
            if found and int(found[1]) <= number:
                self._files.remove(f"{ASIDE}/{name}")

    def _content(self, manifest: "WindowManifest", address: str) -> bytes:
        for path in (manifest.file, manifest.aside, manifest.file):
            # Looked for twice: it may be moved in between.
            try:
                return self._files.read(path)
            except FileNotFoundError:
                continue
        raise CorruptWindowError(address, "is gone", "put it back from a copy")


def _describe(number: int, closed: ClosedWindow, content: bytes) -> "WindowManifest":
    first_ms = closed.rows[0].event.timestamp
    date = datetime.fromtimestamp(first_ms / 1000, UTC).date()
    name = _name(number)
    return WindowManifest(
        number=number,
        file=f"date={date}/{name}.parquet",
        aside=_name_aside(number),
        sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=len(content),
        events=len(closed.rows),
        late=sum(row.late for row in closed.rows),
        repeated=sum(row.repeated for row in closed.rows),
        refused=closed.refused,
        first_ms=first_ms,
        last_ms=closed.rows[-1].event.timestamp,
        closed_ms=int(time.time() * 1000),
        reason=closed.reason,
        progress=closed.progress,
        merges=dict(closed.merges),
        erasures=closed.erasures,
    )


def _name(number: int) -> str:
    return f"window-{number:08}"


def _name_aside(number: int) -> str:
    return f"{ASIDE}/{_name(number)}-{uuid4()}.parquet"


def _parquet(rows: list[WindowEvent]) -> bytes:
    return _encode(to_table(rows).replace_schema_metadata({SCHEMA_KEY: str(SCHEMA).encode()}))


def _encode(table: Any) -> bytes:
    sink: Any = pa.BufferOutputStream()
    # Ours is the manifest's checksum; those of pages are for other readers.
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue().to_pybytes())


def _manifest_path(number: int) -> str:
    return f"{MANIFESTS}/{number:08}.json"


# A manifest is JSON, sealed with a checksum: a bit that flips in an offset must not lose events.
SCHEMA = 1


class WindowManifest(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A window. It exists once its manifest does.

    Attributes:
        file: where it is, below the windows' address.
        aside: where it lies between the manifest's creation and its move to `file`.
        sha256: of the file's content.
        refused: messages that break the event contract, since the window before.
        first_ms, last_ms: event times.
        closed_ms: when, by this machine's clock.
        merges: by guest, whom the guest has become since the window before; the first word stays.
        erasures: how many people were forgotten since the window before: windows up to that one
            have others than they had.
        replaced: `sha256` of what the file was, before people were taken out of it.
    """

    number: int
    file: str
    aside: str
    sha256: str
    size_bytes: int
    events: int
    late: int
    repeated: int
    refused: int
    first_ms: int
    last_ms: int
    closed_ms: int
    reason: CloseReason
    progress: AssemblyState
    merges: dict[str, str] = {}
    erasures: int = 0
    replaced: tuple[str, ...] = ()


class _Sealed(Struct, frozen=True):
    headwater_schema: int
    xxh3: str
    manifest: msgspec.Raw


class CorruptWindowError(DataError):
    """A window cannot be read; it names the file and what to do."""

    def __init__(self, address: str, why: str, remedy: str) -> None:
        super().__init__(f"{address}: {why}: {remedy}".replace("\n", " "))


def seal(manifest: WindowManifest) -> bytes:
    """The manifest as its file has it."""
    body = msgspec.json.encode(manifest)
    digest = xxhash.xxh3_64_hexdigest(body)
    return msgspec.json.encode(_Sealed(SCHEMA, digest, msgspec.Raw(body)))


def unseal(content: bytes, address: str) -> WindowManifest:
    """The manifest in a file.

    Raises:
        CorruptWindowError: it is not as it was written, or a newer Headwater wrote it.
    """
    remedy = "put it back from a copy; without it no window can follow"
    try:
        sealed = read_json(content, _Sealed)
        if sealed.headwater_schema != SCHEMA:
            why = f"has schema {sealed.headwater_schema}, and this Headwater reads {SCHEMA}"
            raise CorruptWindowError(
                address, why, "use the Headwater that wrote it, or a newer one"
            )
        if xxhash.xxh3_64_hexdigest(bytes(sealed.manifest)) != sealed.xxh3:
            raise CorruptWindowError(address, "is damaged: its checksum differs", remedy)
        manifest = read_json(bytes(sealed.manifest), WindowManifest)
    except DocumentError as error:
        raise CorruptWindowError(
            address, f"is not a manifest of a window: {error}", remedy
        ) from error
    # Its checksum is none that an attacker could not write.
    if any(name.startswith("/") or ".." in name for name in (manifest.file, manifest.aside)):
        raise CorruptWindowError(address, "names a file elsewhere", remedy)
    return manifest


def read_log(store: WindowStore, numbers: Iterable[int]) -> Log:
    """The events of some windows in event-time order, late ones in their place.

    What an app sent twice is in it once, and what lies in a far future is not: an older release
    wrote it. It has no items: those are in the catalogue.

    Raises:
        DataError: a window is missing or damaged.
    """
    rows = [row for number in numbers for row in store.read(number).rows]
    latest_ms = latest_reference_ms(current_ms())
    events = [row.event for row in rows if not row.repeated and row.event.timestamp <= latest_ms]
    events.sort(key=attrgetter("timestamp"))
    return Log(events, items=())


FILE = "windows-left-out.json"


class QuarantinedWindows:
    """Their checksums, in a file of the model repository: the next trainer must not learn them."""

    def __init__(self, repository: Path) -> None:
        """Raises `DataError` where the file is none."""
        self._path = repository / FILE
        text = self._path.read_bytes() if self._path.exists() else b"[]"
        try:
            self._digests = read_json(text, set[str])
        except DocumentError as error:
            raise DataError(
                f"{self._path}: cannot be read ({error}): put it back from a copy, or delete it, "
                "and windows that made a version worse are learned again"
            ) from error

    def __contains__(self, window: WindowManifest) -> bool:
        return not self._digests.isdisjoint((window.sha256, *window.replaced))

    def add(self, windows: Iterable[WindowManifest]) -> None:
        """Add some.

        Raises:
            OSError: the file cannot be written; it is as it was.
        """
        self._digests |= {window.sha256 for window in windows}
        replace_synced(self._path, msgspec.json.encode(sorted(self._digests)))
