"""Imports Feast without what makes that slow: import this before anything of Feast.

Feast pulls in torch wherever it is installed, only to answer in tensors, which nothing here asks
for; and it has typeguard rewrite its classes, which takes longer than all else together. Without
both a worker is back seconds earlier, and 300 MB smaller on a trainer's machine. Feast does without
torch where it is missing, and typeguard does nothing under `python -O`: both are tested ways.
"""

import sys
import tempfile
from typing import Any

import typeguard

_modules: dict[str, Any] = sys.modules
_hidden = "torch" not in _modules
_typechecked = typeguard.typechecked


def _as_it_is(target: Any = None, **_: Any) -> Any:
    return target if target is not None else _as_it_is


def _has_temporary_folder() -> bool:
    try:
        return bool(tempfile.gettempdir())
    except FileNotFoundError:
        return False


if _hidden:
    _modules["torch"] = None
typeguard.typechecked = _as_it_is
if not _has_temporary_folder():
    # dill, which Feast uses, asks for its name as it is imported: a container may have none.
    tempfile.tempdir = "/"
try:
    import feast
finally:
    typeguard.typechecked = _typechecked
    if _hidden:
        del _modules["torch"]

__all__ = ["feast"]
