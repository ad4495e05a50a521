"""Headwater's feature repository, plain Feast: `feast apply`, `feast feature-views list`.

Whoever reads needs only Feast; `feast apply` needs headwater-client too, which names the topics.
What the columns hold is written in docs/reference/features.md; the worker writes them
(features/store.py) conditionally, so do not `feast materialize` over them.
"""

import os
from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, PushSource, ValueType
from feast.types import Array, Bool, Bytes, Float64, Int64, String
from headwater_client.event_types import EVENT_TYPES

PARTITIONS = int(os.environ.get("HEADWATER_KAFKA__PARTITIONS", "4"))
HISTORY = os.environ.get("HEADWATER_FEAST_HISTORY", "data")
# What was loaded from a file before the first event of the stream has columns of its own.
LOADED = "loaded"

user = Entity(
    name="user", join_keys=["user_id"], value_type=ValueType.STRING, description="A person."
)
item = Entity(
    name="item", join_keys=["item_id"], value_type=ValueType.STRING, description="A thing to offer."
)
source = Entity(
    name="source",
    join_keys=["source"],
    value_type=ValueType.STRING,
    description="One partition of a topic of clicks or purchases.",
)

trial = Entity(
    name="trial",
    join_keys=["trial"],
    value_type=ValueType.STRING,
    description="A rollout and one partition of the topics: rollout_id/partition.",
)


def item_sources(partitions: int) -> list[str]:
    """Names of the columns of `item_popularity`: one a topic and partition."""
    parts = [*map(str, range(partitions)), LOADED]
    return [f"{topic}_{part}" for topic in EVENT_TYPES.topics for part in parts]


def _pushed(name: str) -> PushSource:
    history = FileSource(
        name=f"{name}_history",
        path=f"{HISTORY}/{name}.parquet",
        timestamp_field="event_timestamp",
    )
    return PushSource(name=f"{name}_push", batch_source=history)


def _view(name: str, entity: Entity, schema: list[Field], description: str) -> FeatureView:
    return FeatureView(
        name=name,
        entities=[entity],
        ttl=timedelta(0),
        schema=schema,
        source=_pushed(name),
        description=description,
    )


def item_popularity_view(partitions: int) -> FeatureView:
    """The view of item rows for topics of so many partitions."""
    return _view(
        "item_popularity",
        item,
        [Field(name=name, dtype=Array(Float64)) for name in item_sources(partitions)],
        "One column a source: [source hash (52 bits), offset, reference ms, decayed counts...]; "
        "an item's popularity is the columns' sum.",
    )


user_activity = _view(
    "user_activity",
    user,
    [
        Field(name="counters", dtype=Array(Float64)),
        Field(name="category_hashes", dtype=Array(Int64)),
        Field(name="category_counters", dtype=Array(Float64)),
        Field(name="history_items", dtype=Array(Int64)),
        Field(name="history_types", dtype=Array(Int64)),
        Field(name="history_times_ms", dtype=Array(Int64)),
        Field(name="taken", dtype=Bytes),
        Field(name="remembered", dtype=Bytes),
        Field(name="offsets", dtype=Array(Int64)),
    ],
    "A person: decayed counters as of the newest event, the last events, offsets absorbed.",
)

item_popularity = item_popularity_view(PARTITIONS)

item_catalogue = _view(
    "item_catalogue",
    item,
    [
        Field(name="title", dtype=String),
        Field(name="description", dtype=String),
        Field(name="category", dtype=Array(String)),
        Field(name="brand", dtype=String),
        Field(name="price", dtype=Float64),
        Field(name="attributes", dtype=String),
        Field(name="available", dtype=Bool),
        Field(name="offsets", dtype=Array(Int64)),
    ],
    "An item as the catalogue describes it; attributes are JSON.",
)

trending = _view(
    "trending",
    source,
    [
        Field(name="item_ids", dtype=Array(String)),
        Field(name="counts", dtype=Array(Float64)),
        Field(name="offsets", dtype=Array(Int64)),
    ],
    "The items that one source made most popular: a short list per writer, made from item rows.",
)

rollout_feedback = _view(
    "rollout_feedback",
    trial,
    [
        Field(name="variants", dtype=Array(String)),
        Field(name="shown", dtype=Array(Float64)),
        Field(name="reward", dtype=Array(Float64)),
        Field(name="counts", dtype=Array(Int64)),
        Field(name="latencies", dtype=Array(Int64)),
        Field(name="scores", dtype=Array(Int64)),
        Field(name="items", dtype=Bytes),
        Field(name="until_ms", dtype=Int64),
        Field(name="offsets", dtype=Array(Int64)),
    ],
    "What feedback says of a rollout's variants, one after another: by bucket of people "
    "recommendations and reward, then counts, and what is counted in bins.",
)
