"""Imports Feast without what makes that slow: import this before anything of Feast.

Feast pulls in torch wherever it is installed, only to answer in tensors, which nothing here asks
for; and it has typeguard rewrite its classes, which takes longer than all else together. Without
both a worker is back seconds earlier, and 300 MB smaller on a trainer's machine. Feast does without
torch where it is missing, and typeguard does nothing under `python -O`: both are tested ways.

It also makes a temporary folder, and has Prometheus' client keep every metric of the process in
files there, unless a folder is named: none is, and the client is imported before.
"""

import os
import sys
import tempfile
from typing import Any

import prometheus_client  # noqa: F401  (before Feast sets its variables)
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
_FOLDERS = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
_named = [name for name in _FOLDERS if name in os.environ]
for _name in _FOLDERS:
    os.environ.setdefault(_name, "")
if not _has_temporary_folder():
    # dill, which Feast uses, asks for its name as it is imported: a container may have none.
    tempfile.tempdir = "/"
try:
    import feast
finally:
    typeguard.typechecked = _typechecked
    for _name in set(_FOLDERS) - set(_named):
        del os.environ[_name]
    if _hidden:
        del _modules["torch"]

__all__ = ["feast"]
