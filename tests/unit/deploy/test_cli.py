"""The command line answers quickly, and a mistake ends in one line and its exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deploy.cli import COMMANDS, load_command


def headwater(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HEADWATER_")}
    root = str(Path(__file__).parents[3])
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", *arguments],
        cwd=folder,
        env=clean | {"PYTHONPATH": root} | variables,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_config_prints_toml(tmp_path: Path) -> None:
    done = headwater(tmp_path, "config", HEADWATER_KAFKA__PARTITIONS="6")
    assert done.returncode == 0
    assert tomllib.loads(done.stdout)["kafka"]["partitions"] == 6


@pytest.mark.parametrize(
    ("arguments", "variables", "code", "words"),
    [
        (["config"], {"HEADWATER_KAFKA__PARTITIONS": "x"}, 2, "kafka.partitions"),
        (["up", "nothing"], {}, 2, "no server is named nothing"),
        (["logs", "kafka"], {}, 3, "kafka was never started here"),
        (["windows", "show", "7"], {}, 4, "00000007.json: no such window: see `headwater windows"),
        (
            ["windows", "ls"],
            {"HEADWATER_WINDOWS__ADDRESS": "nowhere://y"},
            2,
            "windows.address: nowhere://y",
        ),
        (["windows", "write"], {}, 3, "kafka is not running: run `headwater up`"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, arguments: list[str], variables: dict[str, str], code: int, words: str
) -> None:
    done = headwater(tmp_path, *arguments, **variables)
    assert done.returncode == code
    assert done.stderr.startswith("headwater: ")
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_status_says_what_does_not_run(tmp_path: Path) -> None:
    done = headwater(tmp_path, "status", "--json")
    assert done.returncode == 3
    assert [one["name"] for one in json.loads(done.stdout)] == ["kafka", "store", "triton"]


def test_help_imports_nothing_heavy() -> None:
    heavy = {"pydantic", "confluent_kafka", "redis", "tritonclient", "feast", "torch", "numpy"}
    probe = f"import sys, deploy.cli; print(*sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_the_help_lists_every_command_as_it_says_itself() -> None:
    for name, (_, line) in COMMANDS.items():
        own = load_command(name).help or ""
        assert own.startswith(line.rstrip(".")), f"{name}: {own.splitlines()[0]!r} beside {line!r}"


def test_an_unknown_command_is_answered_with_the_nearest(tmp_path: Path) -> None:
    done = headwater(tmp_path, "trian")
    assert done.returncode == 2
    assert "'train'" in done.stderr
