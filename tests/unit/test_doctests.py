"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib
from types import ModuleType

import pytest

from tools.measure_code import PRODUCT, ROOT, source_files


def _with_examples() -> list[str]:
    # The peers of the benchmark run in an environment of their own.
    files = (path for path in source_files(PRODUCT) if path.parent.name != "peers")
    return [str(path.relative_to(ROOT)) for path in files if ">>> " in path.read_text()]


def _module(path: str) -> ModuleType:
    """The module of a file, by the name under which everybody imports it."""
    name = path.removeprefix("clients/python/src/").removesuffix(".py")
    return importlib.import_module(name.removesuffix("/__init__").replace("/", "."))


@pytest.mark.parametrize("path", _with_examples())
def test_examples_are_true(path: str) -> None:
    failed, attempted = doctest.testmod(_module(path))
    assert attempted, f"{path} has >>> but no example that runs"
    assert not failed


def test_there_are_examples() -> None:
    assert len(_with_examples()) > 20
