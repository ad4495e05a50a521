"""A stream worker neither needs torch nor loads it where it is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "features.store",
        "stream.app",
        "headwater_client.producer",
        "deploy.services.worker",
        "trainer.windows.writer",
    ],
)
def test_importing_the_stream_does_not_load_torch(module: str) -> None:
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
