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
from headwater_client.event_types import CLICK, PURCHASE
from structlog.testing import capture_logs

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
from trainer.windows.store import (
    ConcurrentWriterError,
    Files,
    QuarantinedWindows,
    Window,
    WindowStore,
    read_log,
    seal,
    unseal,
)

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


def person_row(offset: int, minute: float, user_id: str) -> WindowEvent:
    return row(offset, minute, user_id=user_id, event_id=f"{user_id}-{offset}")


def write_people(store: WindowStore, number: int, *people: str) -> None:
    """A window with one event of each, whatever else is open."""
    assembler = assemble()
    for offset, person in enumerate(people):
        assembler.add(person_row(offset, offset, person), 10**15)
    for guest in people:
        assembler.merge((CLICK.topic, 0), len(people), guest, "member")
    closed = close_when_idle(assembler)
    assert closed is not None
    store.write(store.prepare(number, closed))


def names_in(address: str, name: bytes) -> list[str]:
    """The files that have a name somewhere in their bytes."""
    return [path for path in sorted(files(address)) if name in read(address, path)]


def people_in(store: WindowStore, number: int) -> list[str]:
    return [each.event.user_id for each in store.read(number).rows]


def test_who_is_taken_out_is_in_no_byte_of_any_file(store: WindowStore, address: str) -> None:
    write_people(store, 1, "ann", "zoe-77", "bob", "zoe-77")
    write_people(store, 2, "bob")
    write_people(store, 3, "zoe-77")
    before = store.manifest(1)
    assert names_in(address, b"zoe-77") != []
    assert store.erase("zoe-77", 3) == 3
    assert names_in(address, b"zoe-77") == []
    assert [people_in(store, number) for number in (1, 2, 3)] == [["ann", "bob"], ["bob"], []]
    after = store.manifest(1)
    assert (after.events, after.replaced) == (2, (before.sha256,))
    assert (after.first_ms, after.progress) == (before.first_ms, before.progress)
    assert store.manifest(2).replaced == ()
    # As often as one likes; and a writer goes on.
    assert store.erase("zoe-77", 3) == 0
    store.place(store.manifest(3))
    write_people(store, 4, "cyd")
    assert [event.user_id for event in read_log(store, [1, 2, 3, 4]).events] == [
        *("ann", "bob", "cyd", "bob"),
    ]


def test_newer_windows_than_asked_for_keep_a_person(store: WindowStore) -> None:
    write_people(store, 1, "zoe-77")
    write_people(store, 2, "zoe-77")
    assert store.erase("zoe-77", 1) == 1
    assert [people_in(store, number) for number in (1, 2)] == [[], ["zoe-77"]]


def test_whoever_died_while_somebody_was_taken_out_left_nothing_of_them(
    store: WindowStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_people(store, 1, "ann", "zoe-77")
    for step in ("put", "replace", "remove"):
        write_people(store, 2, "ann", "zoe-77") if step == "put" else None
        with monkeypatch.context() as patched:
            patched.setattr(Files, step, fail)
            with pytest.raises(OSError, match="died"):
                store.erase("zoe-77", 2)
        assert people_in(store, 1)[0] == "ann"
    store.erase("zoe-77", 2)
    assert names_in(address, b"zoe-77") == []
    assert [people_in(store, number) for number in (1, 2)] == [["ann"], ["ann"]]
    assert len(files(address)) == 4


def fail(*_: object) -> None:
    raise OSError("died")


def test_a_file_that_was_never_moved_to_its_name_is_searched_too(
    store: WindowStore, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Files, "move", fail)
        with pytest.raises(OSError, match="died"):
            write_people(store, 1, "ann", "zoe-77")
    store.erase("zoe-77", 1)
    assert names_in(address, b"zoe-77") == []
    store.place(store.manifest(1))
    assert people_in(store, 1) == ["ann"]


def test_who_reads_while_somebody_is_taken_out_reads_what_is_left(
    store: WindowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_people(store, 1, "ann", "zoe-77")
    older = store.manifest(1)
    store.erase("zoe-77", 1)
    manifests = iter([older])
    told = store.manifest
    monkeypatch.setattr(store, "manifest", lambda number: next(manifests, None) or told(number))
    assert people_in(store, 1) == ["ann"]


def test_a_window_that_was_left_out_stays_so_without_somebody(
    store: WindowStore, tmp_path: Path
) -> None:
    write_people(store, 1, "ann", "zoe-77")
    left_out = QuarantinedWindows(tmp_path)
    left_out.add([store.manifest(1)])
    store.erase("zoe-77", 1)
    assert store.manifest(1) in QuarantinedWindows(tmp_path)


def test_a_damaged_window_is_named_and_the_others_are_searched(
    store: WindowStore, address: str
) -> None:
    write_people(store, 1, "zoe-77")
    write_people(store, 2, "zoe-77")
    replace(address, store.manifest(1).file, b"damaged")
    with capture_logs() as logs:
        assert store.erase("zoe-77", 2) == 1
    [told] = logs
    assert (told["event"], told["window"]) == ("window_not_searched", 1)
