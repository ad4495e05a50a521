"""What a model repository tells of its versions, whatever lies in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from headwater_client.errors import DataError

from deploy.optimize import ServedPrecision
from deploy.optimize.variants import ParityReport, ServedVariant, VariantOutcome, encode_json
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from tests.harness.models import offline_registry, untrained
from tests.unit.trainer.gate.test_checks import FAIR, SETTINGS
from trainer.gate import VERDICTS, encode_verdict, record_verdict, verdict
from trainer.network import EpochOutcome, TrainingOutcome
from trainer.registry import ModelRepository
from trainer.registry.checkpoint import Lineage
from trainer.version_history import VersionHistory, count_sizes

ALIKE = ParityReport(requests=10, overlap=0.98, furthest=float("inf"), ndcg=0.2, graph_ndcg=0.21)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two versions: one judged, with other forms, and one of before all that."""
    folder = tmp_path_factory.mktemp("written")
    schema = FeatureSchema(FeatureSettings())
    registry = offline_registry(folder / "models", schema)
    first = untrained(schema, 1)
    curve = (EpochOutcome(1, 3.5, 0.1), EpochOutcome(2, float("nan"), 0.2))
    learned = replace(first, outcome=TrainingOutcome(2, 0.2, 9.0, 100, curve))
    with registry.repository.lock():
        registry.write_version(first)
        with registry.stage(learned, Lineage(1, (3, 4))) as staged:
            served = ServedVariant(ServedPrecision.INT8, None, ALIKE)
            (staged.folder / "form.json").write_bytes(encode_json(served))
            staged.commit(encode_verdict(verdict(FAIR, SETTINGS)), {"ndcg_at_10": 0.5})
    outcomes = [VariantOutcome("tensorrt", None, "no GPU here", None)]
    (folder / "optimised").mkdir()
    (folder / "optimised" / "2.json").write_bytes(encode_json(outcomes))
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return tmp_path


def read(folder: Path) -> VersionHistory:
    return VersionHistory(folder / "models", folder / "optimised")


def test_all_of_a_version_is_told(folder: Path) -> None:
    found = read(folder).read_versions()
    assert list(found) == [1, 2]
    first, second = found[1], found[2]
    assert first.manifest
    assert (first.verdict, first.served, first.forms, first.problem) == (None, None, (), "")
    assert second.manifest
    assert (second.manifest.parent, second.manifest.windows) == (1, (3, 4))
    assert [(each.epoch, each.loss) for each in second.manifest.outcome.curve] == [
        (1, 3.5),
        (2, None),
    ]
    assert second.verdict == verdict(FAIR, SETTINGS)
    assert second.served
    assert second.served.agreement
    assert (second.served.served, second.served.agreement.overlap) == ("int8", 0.98)
    assert [(each.form, each.refusal) for each in second.forms] == [("tensorrt", "no GPU here")]
    files = folder / "models" / "temporal_llm" / "2"
    on_disk = sum(each.stat().st_size for each in files.iterdir() if each.name != "manifest.json")
    assert count_sizes(second.manifest) == on_disk


def test_nothing_is_there_before_the_first_training(tmp_path: Path) -> None:
    history = read(tmp_path)
    assert (history.read_versions(), history.read_verdicts()) == ({}, [])


def test_a_version_that_was_put_aside_is_told_as_such(folder: Path) -> None:
    repository = ModelRepository(folder / "models")
    with repository.lock():
        repository.put_aside(repository.version(2))
    found = read(folder).read_versions()
    assert {number: each.is_kept for number, each in found.items()} == {1: False, 2: True}


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"files": 1}', b"\xff\xfe", b"[" * 5000, b"null"]
)
def test_a_broken_manifest_is_told_and_the_others_stay(folder: Path, content: bytes) -> None:
    history = read(folder)
    assert not history.read_versions()[2].problem
    (folder / "models" / "temporal_llm" / "2" / "manifest.json").write_bytes(content)
    found = history.read_versions()
    assert found[1].manifest
    assert found[2].manifest is None
    assert "2/manifest.json: cannot be read" in found[2].problem


def test_other_broken_files_leave_the_rest(folder: Path) -> None:
    version = folder / "models" / "temporal_llm" / "2"
    (version / "evaluation.json").write_text("garbage")
    (version / "form.json").unlink()
    (version / "form.json").mkdir()
    (folder / "optimised" / "2.json").write_text('{"not": "a list"}')
    found = read(folder).read_versions()[2]
    assert found.manifest
    assert (found.verdict, found.served, found.forms) == (None, None, ())
    for name in ("evaluation.json", "form.json", "2.json"):
        assert name in found.problem


def test_what_is_no_version_is_passed_over(folder: Path) -> None:
    model = folder / "models" / "temporal_llm"
    (model / "seven").mkdir()
    (model / "9").write_text("a file")
    (folder / "models" / ".aside" / "kept-x").mkdir()
    found = read(folder).read_versions()
    assert sorted(found) == [1, 2, 9]
    assert found[9].problem


def test_verdicts_are_read_as_the_gate_wrote_them(folder: Path) -> None:
    log = folder / "models" / VERDICTS
    passed = verdict(FAIR, SETTINGS)
    record_verdict(passed, log)
    with log.open("ab") as file:
        file.write(b'{"version": 9, "li\n')
    history = read(folder)
    assert history.read_verdicts() == [passed]
    record_verdict(msgspec.structs.replace(passed, version=9), log)
    assert [each.version for each in history.read_verdicts()] == [passed.version, 9]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read all")
def test_a_folder_that_may_not_be_read_is_told(folder: Path) -> None:
    model = folder / "models" / "temporal_llm"
    model.chmod(0)
    try:
        with pytest.raises(DataError, match="let this process read it"):
            read(folder).read_versions()
    finally:
        model.chmod(0o755)


def test_who_only_looks_needs_no_torch() -> None:
    code = "import sys, trainer.version_history; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
