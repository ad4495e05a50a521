"""The tables of the store are what Feast's definitions say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.store import list_definitions, write_feature_repo
from features.store import (
    CATALOGUE,
    FEEDBACK,
    TRENDING,
    USERS,
    StoreTable,
    popularity_table,
    read_views,
    views_for,
)

PARTITIONS = 3
TABLES = [USERS, CATALOGUE, TRENDING, FEEDBACK, popularity_table(PARTITIONS)]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feature_repo")
    write_feature_repo(folder, "127.0.0.1:6379", PARTITIONS)
    return folder


def test_all_views_and_entities_are_applied(repository: Path) -> None:
    described = read_views()
    found = {definition.name for definition in list_definitions(repository)}
    assert found == {*described["entities"], *described["views"]}
    assert {table.name for table in TABLES} == set(described["views"])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_feast_has_the_columns_of_a_table(repository: Path, table: StoreTable) -> None:
    (view,) = (one for one in list_definitions(repository) if one.name == table.name)
    found = {column.name: column.dtype.to_value_type().name.lower() for column in view.schema}
    assert found == table.types


def test_the_views_file_names_the_topics_of_the_event_types() -> None:
    """Who copies features/repo has nothing but the file."""
    assert read_views()["topics"] == views_for(PARTITIONS)["topics"]


def test_the_repository_needs_nothing_of_ours(repository: Path) -> None:
    code = "import sys, definitions; sys.exit('features' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, check=False)
    assert done.returncode == 0


def test_a_rendered_repository_has_its_partitions_whatever_the_environment_says(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADWATER_KAFKA__PARTITIONS", "9")
    names = {one.name: one for one in list_definitions(repository)}
    assert len(names["item_popularity"].schema) == 2 * (PARTITIONS + 1)
