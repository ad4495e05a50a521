"""Renders and applies the feature repository, so that plain Feast reads the local store."""

from __future__ import annotations

from features import feast_import  # noqa: F401  (before anything of Feast)

# isort: split

import os
from importlib.resources import files
from pathlib import Path

import yaml
from feast import FeatureStore

from deploy.settings import Settings
from features.repo import definitions
from features.store import connection_string


def feature_repo(settings: Settings) -> Path:
    """Write the repository with this store's address, and apply it to its registry.

    Returns:
        The folder: `cd` there, and `feast` works.
    """
    folder = _folder(settings)
    folder.mkdir(parents=True, exist_ok=True)
    source = files("features.repo")
    variables = {
        "HEADWATER_FEAST_REGISTRY": "registry.db",
        "HEADWATER_FEAST_CONNECTION": connection_string(settings.store),
    }
    rendered = (source / "feature_store.yaml").read_text()
    for name, value in variables.items():
        rendered = rendered.replace(f"${{{name}}}", value)
    _write_private(folder / "feature_store.yaml", rendered)
    # `feast apply` in this folder must mean the same, whatever the environment says there.
    definitions_text = (source / "definitions.py").read_text()
    default = f'"HEADWATER_KAFKA__PARTITIONS", "{settings.kafka.partitions}"'
    (folder / "definitions.py").write_text(
        definitions_text.replace('"HEADWATER_KAFKA__PARTITIONS", "4"', default)
    )
    _apply(folder, settings.kafka.partitions)
    return folder


def history_path(settings: Settings) -> Path:
    """Where this repository's people have their history: what Feast's offline store reads."""
    return _folder(settings) / "data" / f"{definitions.user_activity.name}.parquet"


def _folder(settings: Settings) -> Path:
    return settings.local.state_dir / "feature_repo"


def _write_private(path: Path, text: str) -> None:
    """Write a file that may hold a password."""
    yaml.safe_load(text)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _apply(folder: Path, partitions: int) -> None:
    FeatureStore(repo_path=str(folder)).apply(
        [
            definitions.user,
            definitions.item,
            definitions.source,
            definitions.user_activity,
            definitions.item_popularity_view(partitions),
            definitions.item_catalogue,
            definitions.trending,
        ]
    )
