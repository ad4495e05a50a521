"""A report says what was measured, on what, and how to do it again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.harness.report import write_report


def test_a_report_has_all_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["loop.py", "--cores", "1"])
    path = tmp_path / "new" / "report.json"
    write_report(path, "loop", {"events_per_second": 1.5})
    report = json.loads(path.read_text())
    assert report["benchmark"] == "loop"
    assert report["command"] == "uv run python -m bench.loop --cores 1"
    assert report["figures"] == {"events_per_second": 1.5}
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["feast"]
