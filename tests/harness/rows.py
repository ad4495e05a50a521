"""Rows as plain Feast reads them, compared with what the log says."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from deploy.local.store import feature_repo
from deploy.settings import Settings
from features.feast_import import import_feast
from features.rows import UserRow, empty_user
from features.schema import FeatureSchema
from features.store import item_sources
from features.topics import hash64
from tests.harness import oracle
from tests.harness.oracle import Logged

CHUNK = 500
_stores: dict[tuple[object, ...], Any] = {}


def open_feast(settings: Settings) -> Any:
    """An SDK that knows nothing but the feature repository's folder, which is applied once."""
    key = settings.local.state_dir, settings.store.address, settings.kafka.partitions
    if key not in _stores:
        _stores[key] = import_feast().FeatureStore(repo_path=str(feature_repo(settings)))
    return _stores[key]


def read_rows(
    settings: Settings, key: str, ids: Sequence[str], features: Sequence[str]
) -> list[dict[str, Any]]:
    """`get_online_features` of plain Feast."""
    return rows_of(open_feast(settings), key, ids, features)


def rows_of(
    store: Any, key: str, ids: Sequence[str], features: Sequence[str]
) -> list[dict[str, Any]]:
    """`read_rows` of a store that is open."""
    rows: list[dict[str, Any]] = []
    for start in range(0, len(ids), CHUNK):
        part = ids[start : start + CHUNK]
        answer = store.get_online_features(
            features=list(features), entity_rows=[{key: each} for each in part]
        ).to_dict()
        rows += [{name: values[at] for name, values in answer.items()} for at in range(len(part))]
    return rows


def user_row(row: Mapping[str, Any], schema: FeatureSchema) -> UserRow:
    """A row as Feast reads it, for the functions that the stream has for it; without sets."""
    if row["counters"] is None:
        return empty_user(schema)
    history = zip(*(row[f"history_{name}"] for name in ("times_ms", "types", "items")), strict=True)
    size = len(schema.category_half_lives)
    hashes, flat = (_as_list(row[f"category_{name}"]) for name in ("hashes", "counters"))
    return UserRow(
        list(row["counters"]),
        array("q", [number for event in history for number in event]),
        {name: flat[at * size : (at + 1) * size] for at, name in enumerate(hashes)},
    )


def _as_list(values: Any) -> list[Any]:
    """Feast has None for an empty list."""
    return [] if values is None else list(values)


def close(values: Sequence[float]) -> object:
    return pytest.approx(values, rel=1e-6, abs=1e-9)


def check_users(
    settings: Settings, log: Sequence[Logged], categories: Mapping[str, Sequence[str]]
) -> None:
    """Every person's row equals the recomputation from the log."""
    schema = FeatureSchema(settings.features)
    people = oracle.by(log, "user_id")
    ids = [str(user_id) for (user_id,) in people]
    names = (
        "counters",
        "category_hashes",
        "category_counters",
        "history_items",
        "history_types",
        "history_times_ms",
        "taken",
    )
    rows = read_rows(settings, "user_id", ids, [f"user_activity:{name}" for name in names])
    for user_id, row in zip(ids, rows, strict=True):
        events = people[user_id,]
        reference, counters = oracle.expected_counters(events, schema.user_half_lives)
        assert row["counters"] == close(counters), user_id
        history = zip(
            row["history_times_ms"], row["history_types"], row["history_items"], strict=True
        )
        expected = oracle.expected_history(events, schema.settings.history_length)
        assert list(history) == expected, user_id
        assert list(array("q", row["taken"])) == sorted({hash64(e.item_id) for e in events})
        _check_categories(row, events, categories, reference, schema)


def _check_categories(
    row: Mapping[str, Any],
    events: Sequence[Logged],
    categories: Mapping[str, Sequence[str]],
    reference: int,
    schema: FeatureSchema,
) -> None:
    found = row["category_counters"] or []
    size = len(schema.category_half_lives)
    expected: dict[int, list[float]] = {}
    for topic, weight in (
        ("clicks", schema.settings.click_weight),
        ("purchases", schema.settings.purchase_weight),
    ):
        for name in {c for e in events for c in categories.get(e.item_id, ())}:
            times = [
                e.time_ms
                for e in events
                if e.topic == topic and name in categories.get(e.item_id, ())
            ]
            values = oracle.decayed_sums(times, reference, schema.category_half_lives)
            have = expected.setdefault(hash64(name), [0.0] * size)
            expected[hash64(name)] = [h + weight * v for h, v in zip(have, values, strict=True)]
    assert list(row["category_hashes"] or []) == sorted(expected)
    flat = [value for name in sorted(expected) for value in expected[name]]
    assert list(found) == close(flat)


def check_items(settings: Settings, log: Sequence[Logged]) -> None:
    """Every item's row equals the recomputation from the log, source by source."""
    schema = FeatureSchema(settings.features)
    columns = item_sources(settings.kafka.partitions)
    groups = oracle.by(log, "item_id", "topic", "partition")
    ids = sorted({event.item_id for event in log})
    rows = read_rows(settings, "item_id", ids, [f"item_popularity:{name}" for name in columns])
    counted = 0
    for item_id, row in zip(ids, rows, strict=True):
        for column in columns:
            topic, _, part = column.rpartition("_")
            events = groups.get((item_id, topic, int(part)), []) if part.isdigit() else []
            if not events:
                assert row[column] is None, (item_id, column)
                continue
            _, offset, reference, *values = row[column]
            newest = max(event.time_ms for event in events)
            assert reference == newest, (item_id, column)
            assert offset >= max(event.offset for event in events)
            assert values == close(
                oracle.decayed_sums([e.time_ms for e in events], newest, schema.item_half_lives)
            ), (item_id, column)
            counted += round(values[-1])
    assert counted == len(log)


def total_counted(settings: Settings, user_ids: Iterable[str]) -> int:
    """Events counted over all people, undecayed."""
    schema = FeatureSchema(settings.features)
    size = len(schema.user_half_lives)
    rows = read_rows(settings, "user_id", list(user_ids), ["user_activity:counters"])
    return sum(round(sum((row["counters"] or [0] * size)[size - 1 :: size])) for row in rows)
