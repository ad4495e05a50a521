"""`./hw` runs the project's commands, and says so where uv cannot be had."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

HW = Path(__file__).parents[2] / "hw"


def run(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{path}:/usr/bin:/bin"}
    return subprocess.run(
        [HW, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def executable(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["demo", "--data", "my log"], f"run --project {HW.parent} headwater demo --data my log"),
        ([], f"run --project {HW.parent} headwater --help"),
        (["test", "-k", "a b"], "run pytest -n 4 --dist loadfile --no-loadscope-reorder -k a b"),
    ],
)
def test_a_command_goes_to_uv(tmp_path: Path, arguments: list[str], told: str) -> None:
    executable(tmp_path / "uv", 'echo "$@"')
    assert run(tmp_path, *arguments).stdout == f"{told}\n"


def test_without_uv_and_without_a_way_to_it_one_line_says_so(tmp_path: Path) -> None:
    copied = tmp_path / "root"
    copied.mkdir()
    (copied / "hw").write_text(HW.read_text())
    (copied / "hw").chmod(0o755)
    executable(tmp_path / "python3", "exit 1")
    done = subprocess.run(
        [copied / "hw", "demo"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "uv could not be fetched: install it" in done.stderr
