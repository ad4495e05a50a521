"""A folder is an idea, and imports only what stands below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import measure_tree
from tools.measure_tree import FOLDERS, ROOT, Layout

PACKAGES = sorted(
    {
        str(path.parent.relative_to(ROOT))
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
)


@pytest.mark.parametrize("folder", PACKAGES)
def test_nothing_runs_back_up(folder: str) -> None:
    assert measure_tree.measure(ROOT, folder).back_up == 0


@pytest.mark.parametrize(("folder", "most"), [("trainer", 20), ("bench", 10)])
def test_a_newcomer_meets_few_rooms(folder: str, most: int) -> None:
    assert measure_tree.measure(ROOT, folder).rooms <= most


def test_a_circle_is_found(tmp_path: Path) -> None:
    house = tmp_path / "house"
    house.mkdir()
    for name, imports in {"__init__": "", "a": "b", "b": "c", "c": "a", "d": "a"}.items():
        text = f"from house.{imports} import x" if imports else ""
        (house / f"{name}.py").write_text(text)
    assert measure_tree.measure(tmp_path, "house") == Layout(rooms=4, floors=4, arrows=4, back_up=1)
