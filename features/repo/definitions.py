"""Headwater's feature repository, plain Feast: `feast apply`, `feast feature-views list`.

Whoever reads needs only Feast, this file, `views.yaml` and `feature_store.yaml`. What the columns
hold is written in docs/reference/features.md; the worker writes them conditionally
(features/store/redis/row_store.py), so do not `feast materialize` over them.
"""

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Bool, Bytes, Float64, Int64, String

DESCRIBED = yaml.safe_load(Path(__file__).with_name("views.yaml").read_text())
# A copy that `headwater up` wrote says how many; that holds whatever the environment says.
PARTITIONS = DESCRIBED["partitions"] or int(os.environ.get("HEADWATER_KAFKA__PARTITIONS", "4"))
HISTORY = os.environ.get("HEADWATER_FEAST_HISTORY", "data")

TYPES: dict[str, Any] = {
    "bool": Bool,
    "bytes": Bytes,
    "double": Float64,
    "double_list": Array(Float64),
    "int64": Int64,
    "int64_list": Array(Int64),
    "string": String,
    "string_list": Array(String),
}


def make_entity(name: str, described: dict[str, str]) -> Entity:
    """What a view has a row for."""
    return Entity(
        name=name,
        join_keys=[described["join_key"]],
        value_type=ValueType.STRING,
        description=described["description"],
    )


def make_view(name: str, described: dict[str, Any], entity: Entity) -> FeatureView:
    """A view whose rows are pushed, with a history in a file."""
    columns = described.get("columns") or {
        f"{topic}_{part}": described["column_per_source"]
        for topic in DESCRIBED["topics"]
        for part in [*range(PARTITIONS), DESCRIBED["loaded"]]
    }
    history = FileSource(
        name=f"{name}_history",
        path=f"{HISTORY}/{name}.parquet",
        timestamp_field="event_timestamp",
    )
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),
        schema=[Field(name=column, dtype=TYPES[kind]) for column, kind in columns.items()],
        source=PushSource(name=f"{name}_push", batch_source=history),
        description=described["description"],
    )


ENTITIES = {name: make_entity(name, said) for name, said in DESCRIBED["entities"].items()}
VIEWS = {
    name: make_view(name, said, ENTITIES[said["entity"]])
    for name, said in DESCRIBED["views"].items()
}
# Feast finds what has a name of its own in this module.
globals().update(ENTITIES | VIEWS)
