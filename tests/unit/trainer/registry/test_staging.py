"""A version is whole or not there, and one process at a time publishes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import msgspec
import pytest
from headwater_client.errors import DataError, SettingsError

from features.inputs import MODEL_NAME, graph_outputs
from features.schema import FeatureSchema, check_version_fits, read_vocabulary
from features.settings import FeatureSettings
from features.together import read_together
from tests.harness.models import SETTINGS as PATIENT
from tests.harness.models import offline_registry, untrained
from trainer.export import answers, open_session, sample_inputs
from trainer.export.onnx import export_unchecked
from trainer.export.triton_config import render_config
from trainer.network import TemporalModel, TrainedModel
from trainer.registry import (
    Lineage,
    ModelRepository,
    ModelVersion,
    RepositoryLockedError,
    checkpoint,
)
from trainer.registry.lock_holder import HOLDER_BYTES, LockHolder, _space, _start_time
from trainer.registry.repository import LOCK, RESERVED_S, STAGING

SETTINGS = PATIENT.model_copy(update={"publish_retry_s": 0.0})
HOLDER = """
import sys, time
from pathlib import Path
from trainer.registry.repository import ModelRepository
repository = ModelRepository(Path(sys.argv[1]))
with repository.lock():
    (repository.staging / "draft-1").mkdir()
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def trained(schema: FeatureSchema) -> TrainedModel:
    return untrained(schema, 1)


def visible(repository: Path) -> list[str]:
    return sorted(one.name for one in (repository / MODEL_NAME).iterdir())


def aside(repository: Path) -> list[str]:
    return sorted(one.name for one in (repository / STAGING).iterdir())


def test_versions_count_up_and_appear_whole(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    first, second = (
        offline_registry(tmp_path, schema, SETTINGS).write_version(trained) for _ in range(2)
    )
    assert (first.number, second.number) == (1, 2)
    assert visible(tmp_path) == ["1", "2", "config.pbtxt"]
    assert aside(tmp_path) == [LOCK, "unannounced-1", "unannounced-2"]
    assert (tmp_path / MODEL_NAME / "config.pbtxt").read_text() == render_config(schema)
    assert second.address == f"file://{tmp_path}/{MODEL_NAME}/2"
    vocabulary = read_vocabulary(f"{second.address}/vocabulary.parquet")
    assert vocabulary.item_ids == trained.vocabulary.item_ids
    feeds = sample_inputs(len(vocabulary), schema, 2)
    found = answers(open_session(second.folder / "model.onnx"), feeds)
    assert list(found) == [one.name for one in graph_outputs(schema)]
    counted, together = trained.model.members[0], read_together(second.address)
    assert together is not None
    assert len(together) == int((counted.neighbour_weights > 0).sum()) > 0


def test_a_config_that_is_there_is_kept(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    config = tmp_path / MODEL_NAME / "config.pbtxt"
    config.parent.mkdir()
    own = f"# the operator's own\n{render_config(schema)}"
    config.write_text(own)
    offline_registry(tmp_path, schema, SETTINGS).write_version(trained)
    assert config.read_text() == own


def test_a_config_of_other_features_is_refused_and_kept(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    config = tmp_path / MODEL_NAME / "config.pbtxt"
    config.parent.mkdir()
    other = render_config(FeatureSchema(FeatureSettings(user_half_lives_ms=(1000,))))
    config.write_text(other)
    with pytest.raises(SettingsError, match=r"config.pbtxt is for other features, input user_feat"):
        offline_registry(tmp_path, schema, SETTINGS).write_version(trained)
    assert config.read_text() == other
    assert visible(tmp_path) == ["config.pbtxt"]


def test_a_version_says_which_features_it_reads(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    version = offline_registry(tmp_path, schema, SETTINGS).write_version(trained)
    assert checkpoint.read_manifest(version.folder).contract == schema.contract
    check_version_fits(version.address, schema.contract)


def test_the_manifest_says_what_a_version_is_made_of(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    lineage = Lineage(parent=4, windows=(7, 8))
    with offline_registry(tmp_path, schema, SETTINGS).stage(trained, lineage) as staged:
        assert checkpoint.load(staged.folder).vocabulary.item_ids == trained.vocabulary.item_ids
        version = staged.commit(b'{"passed": true}', {"ndcg_at_10": 0.25})
    manifest = checkpoint.verify(version.folder)
    assert (manifest.parent, manifest.windows) == (4, (7, 8))
    assert manifest.metrics == {"ndcg_at_10": 0.25}
    assert manifest.settings["trainer"]["width"] == 16
    assert manifest.settings["features"]["history_length"] == schema.settings.history_length
    assert manifest.files.keys() | {checkpoint.MANIFEST} == {
        path.name for path in version.folder.iterdir()
    }
    assert (version.folder / "evaluation.json").read_bytes() == b'{"passed": true}'


@pytest.mark.parametrize(
    "file", ["model.onnx", "together.parquet", "vocabulary.parquet", "weights.safetensors"]
)
def test_a_file_that_is_damaged_or_gone_is_named(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema, file: str
) -> None:
    version = offline_registry(tmp_path, schema, SETTINGS).write_version(trained)
    path = version.folder / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{MODEL_NAME}/1/{file}: damaged"):
        checkpoint.load(version.folder)
    path.unlink()
    with pytest.raises(DataError, match=f"{MODEL_NAME}/1/{file}: .*No such file"):
        checkpoint.load(version.folder)


def test_what_is_not_kept_is_never_seen(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    with offline_registry(tmp_path, schema, SETTINGS).stage(trained) as staged:
        assert sorted(path.name for path in staged.folder.iterdir()) == [
            "manifest.json",
            "model.onnx",
            "together.parquet",
            "vocabulary.parquet",
            "weights.safetensors",
        ]
        assert visible(tmp_path) == ["config.pbtxt"]
    with pytest.raises(KeyError), offline_registry(tmp_path, schema, SETTINGS).stage(trained):
        raise KeyError("the judge's own")
    assert visible(tmp_path) == ["config.pbtxt"]
    assert aside(tmp_path) == [LOCK]


def test_a_number_that_was_taken_meanwhile_is_one_line(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    with offline_registry(tmp_path, schema, SETTINGS).stage(trained) as staged:
        taken = tmp_path / MODEL_NAME / str(staged.number)
        taken.mkdir()
        (taken / "model.onnx").write_text("another's")
        with pytest.raises(RepositoryLockedError, match="1: written by another process"):
            staged.commit()
    assert (taken / "model.onnx").read_text() == "another's"
    assert aside(tmp_path) == [LOCK]


@contextmanager
def files_up_to(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to write more into one file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("file", ["config.pbtxt", "weights.safetensors", "model.onnx"])
def test_a_file_that_does_not_fit_leaves_nothing(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema, file: str
) -> None:
    """The largest files: whatever fails is one of these, or comes after the others."""
    whole = offline_registry(tmp_path / "whole", schema, SETTINGS).write_version(trained).folder
    path = whole.parent / file if file == "config.pbtxt" else whole / file
    with (
        files_up_to(path.stat().st_size - 1),
        pytest.raises(DataError, match=r"cannot be written: .*make room") as caught,
    ):
        offline_registry(tmp_path / "small", schema, SETTINGS).write_version(trained)
    assert "\n" not in str(caught.value)
    assert ModelRepository(tmp_path / "small").version_numbers() == []
    assert aside(tmp_path / "small") == [LOCK]
    assert offline_registry(tmp_path / "small", schema, SETTINGS).write_version(trained).number == 1


@pytest.mark.parametrize("file", ["evaluation.json", ".manifest.json"])
def test_a_disk_that_is_full_at_the_end_leaves_nothing(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema, file: str
) -> None:
    with offline_registry(tmp_path, schema, SETTINGS).stage(trained) as staged:
        (staged.folder / file).symlink_to("/dev/full")
        with pytest.raises(DataError, match=r"\[Errno 28\] No space left"):
            staged.commit(b"{}")
    assert visible(tmp_path) == ["config.pbtxt"]
    assert aside(tmp_path) == [LOCK]


@pytest.mark.parametrize("file", ["evaluation.json", ".manifest.json"])
def test_a_full_disk_is_tried_again(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema, file: str
) -> None:
    with offline_registry(tmp_path, schema, PATIENT).stage(trained) as staged:
        # Removed by the attempt that fails, as every part that fills a disk.
        (staged.folder / file).symlink_to("/dev/full")
        version = staged.commit(b"{}")
    assert checkpoint.verify(version.folder).files.keys() >= {"evaluation.json", "model.onnx"}


def test_a_graph_that_did_not_fit_is_written_again(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts = []

    def full_at_first(model: TemporalModel, schema: FeatureSchema, path: Path) -> None:
        attempts.append(path)
        if len(attempts) == 1:
            path.symlink_to("/dev/full")
        export_unchecked(model, schema, path)

    monkeypatch.setattr("trainer.registry.staging.export_unchecked", full_at_first)
    version = offline_registry(tmp_path, schema, PATIENT).write_version(trained)
    assert len(attempts) == 2
    assert checkpoint.verify(version.folder).files["model.onnx"].size_bytes > 0


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, in the middle of publishing."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_trainer_is_refused_in_one_line(
    holder: subprocess.Popen[str], trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    with pytest.raises(RepositoryLockedError, match="another process publishes") as caught:
        offline_registry(tmp_path, schema, SETTINGS).write_version(trained)
    assert "\n" not in str(caught.value)
    assert aside(tmp_path) == ["draft-1", LOCK]


def test_what_a_killed_one_left_is_swept(
    holder: subprocess.Popen[str], trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    removed = tmp_path / STAGING / "removed-3"
    removed.mkdir()
    (removed / "model.onnx").write_text("half removed")
    (tmp_path / STAGING / "unannounced-9").touch()
    repository = ModelRepository(tmp_path)
    with repository.lock(), repository.lock():
        assert aside(tmp_path) == [LOCK]
        assert repository.list_unannounced() == []
    assert offline_registry(tmp_path, schema, SETTINGS).write_version(trained).number == 1


def test_a_number_is_never_given_again(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    registry = offline_registry(tmp_path, schema, SETTINGS)
    first, second, third = (registry.write_version(trained) for _ in range(3))
    with registry.repository.lock():
        registry.repository.put_aside(third)
        registry.repository.remove(second)
    assert registry.repository.version_numbers() == [first.number]
    again = offline_registry(tmp_path, schema, SETTINGS)
    assert again.write_version(trained).number == 4
    # Somebody tidies up by hand.
    for path in (tmp_path / MODEL_NAME / "4", tmp_path / STAGING):
        shutil.rmtree(path)
    assert offline_registry(tmp_path, schema, SETTINGS).write_version(trained).number == 5
    (tmp_path / "last_version").write_text("no number")
    assert offline_registry(tmp_path, schema, SETTINGS).write_version(trained).number == 6


def test_what_was_refused_is_put_back_whole(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    repository = (registry := offline_registry(tmp_path, schema, SETTINGS)).repository
    with pytest.raises(DataError, match="no version kept aside to be published: there is none"):
        repository.put_back()
    for _ in range(5):
        repository.put_aside(registry.write_version(trained))
    with repository.lock():
        # Whoever comes next tidies up, but not these: the newest.
        assert repository.list_kept() == [3, 4, 5]
    assert visible(tmp_path) == ["config.pbtxt"]
    assert repository.put_back(4) == repository.version(4)
    assert repository.put_back() == repository.version(5)
    assert visible(tmp_path) == ["4", "5", "config.pbtxt"]
    assert repository.list_unannounced() == [4, 5]
    with pytest.raises(DataError, match="version 7: not kept aside to be published: there are 3"):
        repository.put_back(7)


def test_another_attempt_has_another_name(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    repository = (registry := offline_registry(tmp_path, schema, SETTINGS)).repository
    version = registry.write_version(trained)
    first = repository.attempt(version)
    assert first.startswith("1-")
    assert repository.attempt(version) == first
    repository.put_aside(version)
    assert repository.attempt(repository.put_back()) != first


def test_what_is_about_to_get_traffic_is_not_removed(
    trained: TrainedModel, tmp_path: Path, schema: FeatureSchema
) -> None:
    repository = (registry := offline_registry(tmp_path, schema, SETTINGS)).repository
    version = registry.write_version(trained)
    repository.reserve(version)
    with repository.lock():
        assert repository.list_reserved() == [1]
        assert not repository.remove(version)
    assert checkpoint.verify(version.folder)
    long_ago = time.time() - RESERVED_S - 1
    os.utime(tmp_path / STAGING / "reserved-1", (long_ago, long_ago))
    assert repository.list_reserved() == []
    assert repository.remove(version)
    assert not version.folder.exists()


def say_holder(folder: Path, holder: LockHolder) -> None:
    """As on a volume that grants the lock to everybody: the file alone says who has it."""
    (folder / STAGING).mkdir(exist_ok=True)
    (folder / STAGING / LOCK).write_bytes(msgspec.json.encode(holder).ljust(HOLDER_BYTES))


def holder_of(pid: int, space: str = "") -> LockHolder:
    return LockHolder("a-host", space or _space(), pid, _start_time(pid))


def test_a_lock_that_everybody_is_granted_is_held_by_who_says_so(tmp_path: Path) -> None:
    repository = ModelRepository(tmp_path)
    with subprocess.Popen(["sleep", "60"]) as other:
        say_holder(tmp_path, holder_of(other.pid))
        with (
            pytest.raises(RepositoryLockedError, match=f"process {other.pid} on a-host publishes"),
            repository.lock(),
        ):
            pass
        other.kill()
    with repository.lock():
        said = (tmp_path / STAGING / LOCK).read_bytes()
        assert msgspec.json.decode(said.rstrip(), type=LockHolder).pid == os.getpid()
    assert (tmp_path / STAGING / LOCK).read_bytes() == b""


def test_a_process_id_that_was_given_again_holds_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        say_holder(tmp_path, msgspec.structs.replace(holder_of(other.pid), started="1"))
        with ModelRepository(tmp_path).lock():
            pass
        other.kill()


def test_a_holder_elsewhere_lives_while_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.registry.lock_holder.BEAT_S", 0.05)
    elsewhere = holder_of(1, "another machine")
    say_holder(tmp_path, elsewhere)
    with ModelRepository(tmp_path).lock():
        pass
    say_holder(tmp_path, elsewhere)
    ended = Event()

    def beat() -> None:
        beats = 0
        while not ended.wait(0.01):
            beats += 1
            say_holder(tmp_path, msgspec.structs.replace(elsewhere, beats=beats))

    beating = Thread(target=beat)
    beating.start()
    try:
        with (
            pytest.raises(RepositoryLockedError, match="process 1 on a-host"),
            ModelRepository(tmp_path).lock(),
        ):
            pass
    finally:
        ended.set()
        beating.join()


@pytest.mark.parametrize("said", [b"", b"\0" * 40, b"{", b'{"pid": 1}', b"[" * 600])
def test_a_lock_file_that_says_nothing_locks_nobody_out(tmp_path: Path, said: bytes) -> None:
    (tmp_path / STAGING).mkdir()
    (tmp_path / STAGING / LOCK).write_bytes(said)
    with ModelRepository(tmp_path).lock():
        pass


def test_a_repository_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(SettingsError, match=r"model_repository: .*cannot be written: Not a dir"),
        ModelRepository(tmp_path / "file").lock(),
    ):
        pass


def test_a_version_is_marked_before_it_is_seen(tmp_path: Path) -> None:
    """A rename that fails leaves no mark; one that succeeds had it."""
    repository = ModelRepository(tmp_path)
    with repository.lock():
        staged = repository.staging / "draft-1"
        staged.mkdir()
        with pytest.raises(FileNotFoundError):
            repository.commit(staged, ModelVersion(1, tmp_path / "nowhere" / "model" / "1"))
        (tmp_path / MODEL_NAME / "1").write_text("a file")
        with pytest.raises(NotADirectoryError):
            repository.commit(staged, repository.version(1))
        assert repository.list_unannounced() == []
