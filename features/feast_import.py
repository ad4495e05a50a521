"""Imports Feast without what makes that slow: all that is used of Feast comes from here.

Rows need its messages and its encoding of keys. To import one of its modules Python first runs the
face of the package, which imports all of Feast, pandas and a web server with it: here the face is
passed over.

Where Feast itself is needed (`import_feast`), it goes without two things. It pulls in torch
wherever it is installed, only to answer in tensors, which nothing here asks for; and it has
typeguard rewrite its classes, which takes longer than all else together. Feast does without torch
where it is missing, and typeguard does nothing under `python -O`: both are tested ways.

It also makes a temporary folder, and has Prometheus' client keep every metric of the process in
files there, unless a folder is named: none is, and the client is imported before.
"""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec, module_from_spec
from typing import Any

import prometheus_client  # noqa: F401  (before Feast sets its variables)
import typeguard

_modules: dict[str, Any] = sys.modules
_FOLDERS = ("PROMETHEUS_MULTIPROCESS_DIR", "PROMETHEUS_MULTIPROC_DIR")
_PARTS = ("protos", "infra")


@contextmanager
def _pass_over_face() -> Iterator[None]:
    """Import modules of Feast in the block without the face of its package."""
    spec = find_spec("feast")
    if spec is None or "feast" in _modules:
        yield
        return
    _modules["feast"] = module_from_spec(spec)
    try:
        yield
    finally:
        # Who imports Feast later gets it whole.
        del _modules["feast"]


with _pass_over_face():
    from feast.infra.key_encoding_utils import serialize_entity_key
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import DoubleList, Int64List, StringList, Value


def import_feast() -> Any:
    """Feast itself; it takes a second the first time."""
    if "feast" not in _modules:
        with _hide_torch(), _disable_typeguard(), _keep_folders_unset():
            feast = import_module("feast")
        for name in _PARTS:
            setattr(feast, name, _modules[f"feast.{name}"])
    return _modules["feast"]


@contextmanager
def _hide_torch() -> Iterator[None]:
    if "torch" in _modules:
        yield
        return
    _modules["torch"] = None
    try:
        yield
    finally:
        del _modules["torch"]


@contextmanager
def _disable_typeguard() -> Iterator[None]:
    typechecked = typeguard.typechecked
    typeguard.typechecked = _as_it_is
    try:
        yield
    finally:
        typeguard.typechecked = typechecked


def _as_it_is(target: Any = None, **_: Any) -> Any:
    return target if target is not None else _as_it_is


@contextmanager
def _keep_folders_unset() -> Iterator[None]:
    named = [name for name in _FOLDERS if name in os.environ]
    for name in _FOLDERS:
        os.environ.setdefault(name, "")
    if not _has_temporary_folder():
        # dill, which Feast uses, asks for its name as it is imported: a container may have none.
        tempfile.tempdir = "/"
    try:
        yield
    finally:
        for name in set(_FOLDERS) - set(named):
            del os.environ[name]


def _has_temporary_folder() -> bool:
    try:
        return bool(tempfile.gettempdir())
    except FileNotFoundError:
        return False


__all__ = [
    "DoubleList",
    "EntityKey",
    "Int64List",
    "StringList",
    "Value",
    "import_feast",
    "serialize_entity_key",
]
