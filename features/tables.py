"""The tables of the store: which columns each has, and of which type.

Read from `features/repo/views.yaml`, which Feast's own definitions read too. Pure: Feast is not
needed to know what a column is called.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.resources import files
from typing import Any

import yaml
from headwater_client.event_types import EVENT_TYPES

VIEWS_FILE = "views.yaml"
# The column that a conditional write compares: every event absorbed changes it.
VERSION = "offsets"


class ColumnType(StrEnum):
    """What a column holds, by the name of the field of Feast's `Value` without `_val`."""

    BOOL = "bool"
    BYTES = "bytes"
    DOUBLE = "double"
    DOUBLES = "double_list"
    INT64 = "int64"
    INT64S = "int64_list"
    STRING = "string"
    STRINGS = "string_list"


@dataclass(frozen=True, eq=False)
class StoreTable:
    """A feature view as the store holds it.

    Attributes:
        name: of the view.
        join_key: what its entity's ids are called.
        types: of its columns, by name and in order.
    """

    name: str
    join_key: str
    types: Mapping[str, ColumnType]

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its columns."""
        return tuple(self.types)


def read_views() -> dict[str, Any]:
    """The views file of this package, as it stands."""
    text = (files("features.repo") / VIEWS_FILE).read_text()
    views: dict[str, Any] = yaml.safe_load(text)
    return views


def views_for(partitions: int) -> dict[str, Any]:
    """The views file for topics of so many partitions: what a rendered repository holds."""
    return read_views() | {"topics": list(EVENT_TYPES.topics), "partitions": partitions}


def item_sources(partitions: int) -> list[str]:
    """Names of the columns of `item_popularity`: one for each topic and partition."""
    parts = [*map(str, range(partitions)), LOADED]
    return [f"{topic}_{part}" for topic in EVENT_TYPES.topics for part in parts]


def _join_key(view: str) -> str:
    key: str = _VIEWS["entities"][_VIEWS["views"][view]["entity"]]["join_key"]
    return key


def _table(view: str) -> StoreTable:
    columns = _VIEWS["views"][view]["columns"]
    return StoreTable(view, _join_key(view), {n: ColumnType(kind) for n, kind in columns.items()})


_VIEWS = read_views()
LOADED: str = _VIEWS["loaded"]
USERS = _table("user_activity")
CATALOGUE = _table("item_catalogue")
TRENDING = _table("trending")
FEEDBACK = _table("rollout_feedback")


def popularity_table(partitions: int) -> StoreTable:
    """The table of item rows for the topics of all event types, each of so many partitions."""
    kind = ColumnType(_VIEWS["views"]["item_popularity"]["column_per_source"])
    types = dict.fromkeys(item_sources(partitions), kind)
    return StoreTable("item_popularity", _join_key("item_popularity"), types)
