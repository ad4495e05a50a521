"""Training gives way where it is told to, and nowhere else."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = "import os; from trainer.priority import give_way; give_way({}); print(os.nice(0))"


@pytest.mark.parametrize(("nice", "more"), [(0, 0), (7, 7)])
def test_it_is_as_nice_as_it_is_told_on_top_of_what_it_was(nice: int, more: int) -> None:
    """In a process of its own: what is nice stays so."""

    def nice_of(by: int) -> int:
        command = [sys.executable, "-c", SCRIPT.format(by)]
        return int(subprocess.run(command, capture_output=True, check=True).stdout)

    assert nice_of(nice) == nice_of(0) + more
