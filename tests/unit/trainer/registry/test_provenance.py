"""A version says which code it was made by, where that can be known."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from trainer.registry.checkpoint import code_revision

GIT = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"]


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_of_a_checkout_the_revision_is_known(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*GIT, "-C", str(tmp_path), *command], check=True)
    head = ["git", "-C", str(tmp_path), "rev-parse", "HEAD"]
    revision = subprocess.run(head, check=True, capture_output=True, text=True).stdout.strip()
    assert code_revision(tmp_path) == f"{version('headwater')}+{revision}"
    (tmp_path / "file").write_text("b")
    assert code_revision(tmp_path) == f"{version('headwater')}+{revision}-dirty"


def test_without_a_checkout_it_is_the_package_s(tmp_path: Path) -> None:
    assert code_revision(tmp_path) == version("headwater")


def test_a_checkout_that_git_cannot_read_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text("garbage")
    assert code_revision(tmp_path) == version("headwater")


def test_without_git_there_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_revision(tmp_path) == version("headwater")
