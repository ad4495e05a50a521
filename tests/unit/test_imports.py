"""A process loads what it has a use for: torch where it trains, Feast where it asks Feast."""

from __future__ import annotations

import subprocess
import sys

from deploy.cli import COMMANDS

# `demo` trains, but not at once.
TRAINING = {"train", "models", "demo"}
MODULES = [
    "headwater_client.producer",
    "features.store",
    "stream.app",
    "trainer.examples",
    "trainer.windows.writer",
    *sorted({f"deploy.commands.{place.partition(':')[0]}" for place, _ in COMMANDS.values()}),
]


def test_torch_is_for_training_and_feast_for_who_asks_it() -> None:
    """One process imports them all, one after another."""
    chosen = [name for name in MODULES if name.rpartition(".")[2] not in TRAINING]
    code = f"""
import importlib, sys
for name in {chosen}:
    importlib.import_module(name)
    if found := {{"torch", "feast", "pandas"}} & sys.modules.keys():
        sys.exit(f"{{name}} loads {{found}}")
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "deploy.commands.controller" in chosen
