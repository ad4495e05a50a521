"""A folder may have any name: versions are read where they were written, windows stay in it."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from deploy.rollout.subjects import _sibling_address
from features.schema import FILE_NAME, Vocabulary, open_address, read_vocabulary
from trainer.registry.repository import ModelRepository
from trainer.windows.store import Files

NAMES = [
    "plain",
    "model repo",
    "été",
    "100%",
    "%20",
    "a#b",
    "a?b",
    "a;b",
    "a::b",
    "a*b",
    "a[1]b",
    "a&b",
    "q'uote",
    "~x",
    "a\\b",
    "a,b",
    "$HOME",
    "日本",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_version_in_a_folder_of_any_name_is_read(tmp_path: Path, name: str) -> None:
    repository = ModelRepository(tmp_path / name)
    version = repository.version(7)
    version.folder.mkdir(parents=True)
    Vocabulary(["a", "b"]).write(str(version.folder / FILE_NAME))
    assert len(read_vocabulary(f"{version.address}/{FILE_NAME}")) == 4
    assert len(read_vocabulary(str(version.folder / FILE_NAME))) == 4
    beside = repository.version(8)
    beside.folder.mkdir()
    (beside.folder / "x").write_text("beside")
    with open_address(f"{_sibling_address(version.address, 8)}/x") as file:
        assert file.read() == b"beside"


@pytest.mark.parametrize("name", NAMES)
def test_windows_in_a_folder_of_any_name_stay_in_it(tmp_path: Path, name: str) -> None:
    files = Files(str(tmp_path / name))
    files.create("manifests/1.json", b"x")
    assert files.read("manifests/1.json") == b"x"
    assert files.names("manifests") == ["1.json"]
    assert (tmp_path / name / "manifests" / "1.json").read_bytes() == b"x"


def test_an_address_elsewhere_is_fsspecs() -> None:
    fsspec.filesystem("memory").pipe_file("/bucket/a*b", b"x")
    with open_address("memory://bucket/a*b") as file:
        assert file.read() == b"x"
