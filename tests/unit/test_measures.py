"""The measures of the house style are what they say, on code that is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import measure_code
from tools.measure_code import PRODUCT, limits, measure, source_files

SAMPLE = '''
import os
from typing import (
    Any,
    cast,
)


def told(a, b, c, d, e, f):
    """Too many, and a participle."""


class Step:
    def __init__(self, a, b, c, d, e): ...

    def beside(self): ...

    def seed(self): ...


class Outer:
    class Step: ...
'''


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(measure_code, "ROOT", tmp_path)
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    return path


def test_what_breaks_a_rule_is_found(sample: Path) -> None:
    found = measure([sample])
    assert [name for name, _ in found.participles] == ["told"]
    assert [name for name, _ in found.neither] == ["beside"]
    assert list(found.ambiguous_classes) == ["Step"]
    assert [(number, name) for number, name, _ in found.long_signatures] == [(6, "told")]
    assert (found.import_lines, found.lines) == (5, SAMPLE.count("\n"))
    assert [holds for *_, holds in limits(found)] == [False, False, False, False, True]


def test_the_product_holds_the_style() -> None:
    measures = measure(source_files(PRODUCT))
    assert [what for what, *_, holds in limits(measures) if not holds] == []
