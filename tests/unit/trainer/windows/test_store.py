"""A window is whole or absent, on a local disk and on an object store."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import fsspec
import msgspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from headwater_client.errors import DataError, SettingsError
from headwater_client.event_types import PURCHASE

from tests.harness.windows import (
    ONE_SOURCE,
    START_MS,
    assemble,
    close_when_idle,
    closed_window,
    row,
    write_window,
)
from trainer.windows.events import COLUMNS, WindowEvent, from_table, to_table
from trainer.windows.store import ConcurrentWriterError, Window, WindowStore, read_log, seal, unseal

DATE = "date=2023-11-14"


@pytest.fixture(params=["local", "memory"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "local":
        yield str(tmp_path / "the [windows]")
        return
    remote = f"memory://{uuid4()}"
    yield remote
    fsspec.filesystem("memory").rm(remote, recursive=True)


@pytest.fixture
def store(address: str) -> WindowStore:
    return WindowStore(address)


def files(address: str) -> set[str]:
    fs, root = fsspec.core.url_to_fs(address)
    return {str(each).removeprefix(root).lstrip("/") for each in fs.find(root)}


def read(address: str, path: str) -> bytes:
    fs, root = fsspec.core.url_to_fs(address)
    return bytes(fs.cat_file(f"{root}/{path}"))


def replace(address: str, path: str, content: bytes) -> None:
    fs, root = fsspec.core.url_to_fs(address)
    fs.pipe_file(f"{root}/{path}", content)


def test_an_empty_address_has_no_windows(address: str) -> None:
    store = WindowStore(address)
    assert (store.numbers(), store.newest()) == ([], None)
    write_window(store, 1, 5)


def test_what_was_written_is_read_back(store: WindowStore, address: str) -> None:
    first = write_window(store, 1, 5, 7)
    second = write_window(store, 2, 6)
    assert store.numbers() == [1, 2]
    assert store.read(1).rows == first.rows
    newest = store.newest()
    assert newest is not None
    assert store.read(2) == Window(newest, second.rows)
    assert newest.progress == second.progress
    assert files(address) == {
        f"{DATE}/window-00000001.parquet",
        f"{DATE}/window-00000002.parquet",
        "_manifests/00000001.json",
        "_manifests/00000002.json",
    }


def test_every_field_is_kept() -> None:
    known = {"session_id": "s", "recommendation_id": "r", "position": 3, "price": 1.5}
    context = {"where": "top", "days": 10**25, "share": 0.5, "new": True, "none": None}
    rows = [
        row(0, 5),
        row(1, 6, topic=PURCHASE.topic, quantity=2, context=context, **known),
        WindowEvent("clicks", 3, 2**40, row(2, 7, context={}).event, late=True, repeated=True),
    ]
    table = to_table(rows)
    assert table.schema.equals(COLUMNS)
    assert table["type"].to_pylist() == ["click", "purchase", "click"]
    assert from_table(table) == rows


def test_other_programs_read_the_folder_as_one_table(tmp_path: Path) -> None:
    store = WindowStore(str(tmp_path))
    write_window(store, 1, 5, 7)
    write_window(store, 2, 60 * 24)
    table = pq.read_table(tmp_path)
    assert table["timestamp"].to_pylist() == [START_MS + m * 60_000 for m in (5, 7, 60 * 24)]
    assert table["date"].to_pylist() == ["2023-11-14"] * 2 + ["2023-11-15"]
    schema = pq.read_schema(tmp_path / DATE / "window-00000001.parquet")
    assert schema.metadata[b"headwater_schema"] == b"1"


def test_a_writer_that_died_before_the_manifest_has_written_nothing(
    store: WindowStore, address: str
) -> None:
    draft = store.prepare(1, closed_window(5))
    store._files.put(draft.manifest.aside, draft.content)
    assert store.numbers() == []
    write_window(store, 1, 6)
    assert len(store.read(1).rows) == 1
    assert not any(each.startswith(".aside") for each in files(address))


def test_a_writer_that_died_after_the_manifest_has_written_all(
    store: WindowStore, address: str
) -> None:
    window = closed_window(5)
    draft = store.prepare(1, window)
    store._files.put(draft.manifest.aside, draft.content)
    store._create(draft.manifest)
    assert store.read(1).rows == window.rows
    store.place(draft.manifest)
    store.place(draft.manifest)
    assert store.read(1).rows == window.rows
    assert draft.manifest.aside not in files(address)


def test_writing_again_after_a_failure_changes_nothing(store: WindowStore) -> None:
    window = closed_window(5)
    draft = store.prepare(1, window)
    store.write(draft)
    store.write(draft)
    assert store.numbers() == [1]
    assert store.read(1).rows == window.rows


def test_of_two_writers_of_a_number_one_succeeds(store: WindowStore, address: str) -> None:
    first, second = store.prepare(1, closed_window(5)), store.prepare(1, closed_window(6, 7))
    store.write(first)
    with pytest.raises(ConcurrentWriterError, match=r"00000001.json: written by another writer"):
        store.write(second)
    assert store.read(1) == Window(first.manifest, store.read(1).rows)
    write_window(store, 2, 8)
    assert not any(each.startswith(".aside") for each in files(address))


def test_a_window_that_is_being_written_is_left_alone(store: WindowStore, address: str) -> None:
    draft = store.prepare(2, closed_window(6))
    store._files.put(draft.manifest.aside, draft.content)
    write_window(store, 1, 5)
    assert draft.manifest.aside in files(address)


def test_any_flipped_bit_is_found(store: WindowStore, address: str) -> None:
    write_window(store, 1, 5, 7)
    path = f"{DATE}/window-00000001.parquet"
    content = bytearray(read(address, path))
    for at in range(0, len(content), 97):
        content[at] ^= 4
        replace(address, path, bytes(content))
        with pytest.raises(DataError, match=r"window-00000001.parquet: is damaged: .* from a copy"):
            store.read(1)
        content[at] ^= 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_a_damaged_manifest_is_named(store: WindowStore, address: str, content: bytes) -> None:
    write_window(store, 1, 5)
    replace(address, "_manifests/00000001.json", content)
    with pytest.raises(DataError, match=r"00000001.json: is not a manifest of a window: "):
        store.newest()


def test_a_changed_manifest_is_found(store: WindowStore, address: str) -> None:
    write_window(store, 1, 5)
    path = "_manifests/00000001.json"
    content = read(address, path)
    replace(address, path, content.replace(b'"next":1', b'"next":7'))
    with pytest.raises(DataError, match="its checksum differs"):
        store.newest()


def test_a_newer_schema_is_refused_with_what_to_do(store: WindowStore, address: str) -> None:
    write_window(store, 1, 5)
    path = "_manifests/00000001.json"
    newer = json.loads(read(address, path)) | {"headwater_schema": 2}
    replace(address, path, json.dumps(newer).encode())
    with pytest.raises(DataError, match=r"has schema 2, and this Headwater reads 1: use "):
        store.read(1)


def test_a_missing_window_and_a_missing_file_are_named(store: WindowStore, address: str) -> None:
    write_window(store, 1, 5)
    with pytest.raises(DataError, match=r"00000007.json: no such window"):
        store.read(7)
    fs, root = fsspec.core.url_to_fs(address)
    fs.rm_file(f"{root}/{DATE}/window-00000001.parquet")
    with pytest.raises(DataError, match=r"window-00000001.parquet: is gone"):
        store.read(1)


@pytest.mark.parametrize("name", ["../../elsewhere.parquet", "/etc/passwd", "a/../../b"])
@pytest.mark.parametrize("field", ["file", "aside"])
def test_a_manifest_that_names_a_file_elsewhere_is_refused(
    store: WindowStore, field: str, name: str
) -> None:
    write_window(store, 1, 5)
    forged = msgspec.structs.replace(store.manifest(1), **{field: name})
    with pytest.raises(DataError, match=r"00000001\.json: names a file elsewhere"):
        unseal(seal(forged), "00000001.json")


class OverwritingFileSystem(MemoryFileSystem):
    """A store that knows no put "only if absent", as older gateways do."""

    protocol = "overwriting"

    def pipe_file(self, path: str, value: bytes, **_: object) -> None:
        super().pipe_file(path, value)


def test_a_store_that_keeps_no_two_writers_apart_is_refused(address: str) -> None:
    WindowStore(address).check()
    assert files(address) == set()
    fsspec.register_implementation("overwriting", OverwritingFileSystem, clobber=True)
    with pytest.raises(SettingsError, match="writes over a file that must not exist"):
        WindowStore(f"overwriting://{uuid4()}").check()


def test_a_disk_without_links_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path, __: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(SettingsError, match="a disk without hard links"):
        WindowStore(str(tmp_path)).check()


@pytest.mark.parametrize("address", ["nowhere://x", "s3://bucket/windows"])
def test_an_address_that_cannot_be_used_is_one_line(address: str) -> None:
    with pytest.raises(SettingsError, match=f"windows.address: {address}: ") as caught:
        WindowStore(address)
    assert len(str(caught.value).splitlines()) == 1


def test_what_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be read"):
        WindowStore(str(tmp_path / "file")).numbers()


def test_a_log_has_each_event_once_in_event_time_order(store: WindowStore) -> None:
    assembler = assemble(sources=ONE_SOURCE)
    for offset, (minute, event_id) in enumerate([(9, "a"), (5, "b"), (9, "a"), (200, "d")]):
        assembler.add(row(offset, minute, event_id=event_id), 10**13)
    first = assembler.close(0)
    assembler.add(row(4, 1, event_id="late"), 10**13)
    second = close_when_idle(assembler)
    for number, window in enumerate((first, second), 1):
        assert window is not None
        store.write(store.prepare(number, window))
    log = read_log(store, [1, 2])
    assert [event.event_id for event in log.events] == ["late", "b", "a", "d"]
