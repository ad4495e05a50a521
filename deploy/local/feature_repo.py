"""Renders and applies the feature repository, so that plain Feast reads the local store."""

from __future__ import annotations

from features import feast_import  # noqa: F401  (before anything of Feast)

# isort: split

import os
import runpy
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from feast import Entity, FeatureStore, FeatureView

from deploy.settings import Settings
from features.store import USERS, VIEWS_FILE, views_for
from features.store.redis import connection_string

DEFINITIONS = "definitions.py"
STORE_FILE = "feature_store.yaml"


def feature_repo(settings: Settings) -> Path:
    """Write the repository with this store's address, and apply it to its registry.

    `feast apply` in this folder means the same, whatever the environment says there.

    Returns:
        The folder: `cd` there, and `feast` works.
    """
    folder = _folder(settings)
    write_feature_repo(folder, connection_string(settings.store), settings.kafka.partitions)
    FeatureStore(repo_path=str(folder)).apply(list_definitions(folder))
    return folder


def write_feature_repo(folder: Path, connection: str, partitions: int) -> None:
    """Write the repository for one store and topics of so many partitions.

    Args:
        folder: made if it is missing.
        connection: the store's address and login as Feast writes them.
        partitions: of each topic of what people do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source = files("features.repo")
    store = yaml.safe_load((source / STORE_FILE).read_text())
    store["registry"] = "registry.db"
    store["online_store"]["connection_string"] = connection
    _write_private(folder / STORE_FILE, yaml.safe_dump(store, sort_keys=False))
    views = yaml.safe_dump(views_for(partitions), sort_keys=False)
    (folder / VIEWS_FILE).write_text(views)
    (folder / DEFINITIONS).write_text((source / DEFINITIONS).read_text())


def list_definitions(folder: Path) -> list[Any]:
    """All entities and views of a written repository, as `feast apply` finds them there."""
    names: dict[str, Any] = runpy.run_path(str(folder / DEFINITIONS))
    return [value for value in names.values() if isinstance(value, (Entity, FeatureView))]


def history_path(settings: Settings) -> Path:
    """Where this repository's people have their history: what Feast's offline store reads."""
    return _folder(settings) / "data" / f"{USERS.name}.parquet"


def _folder(settings: Settings) -> Path:
    return settings.local.state_dir / "feature_repo"


def _write_private(path: Path, text: str) -> None:
    """Write a file that may hold a password."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
