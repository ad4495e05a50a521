"""What is installed from the wheel has all that the console shows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
HOUSE = Path("deploy/console")
PROBE = """
from deploy.console import pages, rendering
templates = rendering.make_templates(pages.PAGES)
for page in pages.PAGES:
    templates.get_template(f"{page.area}.html")
print(rendering.HOUSE)
"""


def test_the_wheel_has_templates_and_static_files(tmp_path: Path) -> None:
    build = ["uv", "build", "--package", "headwater", "--wheel", "--out-dir", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    install = ["uv", "pip", "install", "--no-deps", "--target", str(installed), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    listed = subprocess.run(
        ["git", "ls-files", str(HOUSE)], cwd=ROOT, check=True, capture_output=True, text=True
    )
    files = listed.stdout.split()
    assert any(name.endswith("uPlot.esm.js") for name in files)
    assert any(name.endswith("uPlot.LICENSE") for name in files)
    assert [name for name in files if not (installed / name).exists()] == []
    told = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(told.stdout.strip()) == installed / HOUSE
