"""A small log and a small model of it."""

from __future__ import annotations

import numpy as np
import pytest
from headwater_client.events import Click, Interaction, Item, Purchase

from features.schema import FeatureSchema, Vocabulary
from features.settings import DAY_MS, HOUR_MS, FeatureSettings
from tests.harness.columns import columns_of
from tests.harness.models import every_part
from trainer.datasets import Log
from trainer.examples import Examples, ItemTrends, compute_trends, observe_log
from trainer.network import Architecture, TemporalModel

START_MS = 1_700_000_000_000
ITEMS = 130
HISTORY = 8


@pytest.fixture(scope="session")
def schema() -> FeatureSchema:
    return FeatureSchema(FeatureSettings(history_length=HISTORY))


@pytest.fixture(scope="session")
def small_log() -> Log:
    """Eight people; bursts within a second and pauses of days; items bought after a click."""
    random = np.random.default_rng(5)
    events: list[Interaction] = []
    time_ms = START_MS
    for number in range(300):
        time_ms += int(random.choice([0, 1000, HOUR_MS, DAY_MS // 3], p=[0.5, 0.2, 0.2, 0.1]))
        user, item = f"u{random.integers(8)}", f"i{random.integers(40)}"
        click = Click(event_id=f"c{number}", user_id=user, item_id=item, timestamp=time_ms)
        events.append(click)
        if number % 5 == 0:
            events.append(
                Purchase(event_id=f"p{number}", user_id=user, item_id=item, timestamp=time_ms)
            )
    items = [Item(item_id=f"i{at}", category=[f"kind {at % 3}"]) for at in range(40)]
    return Log(events, items)


@pytest.fixture(scope="session")
def columns(small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema) -> Examples:
    return columns_of(small_log, vocabulary, schema)


@pytest.fixture(scope="session")
def trended(small_log: Log, vocabulary: Vocabulary, schema: FeatureSchema) -> ItemTrends:
    log = observe_log(small_log.events, small_log.items)
    return compute_trends(log, vocabulary, schema, HOUR_MS)


@pytest.fixture(scope="session")
def shape(schema: FeatureSchema) -> Architecture:
    """Of a model with every part."""
    return Architecture(
        items=ITEMS,
        user_features=schema.user_feature_count,
        trends=schema.trend_count,
        history=HISTORY,
        width=16,
        layers=3,
        heads=2,
        dropout=0.3,
        text=6,
        alike=5,
        related=4,
        neighbours=12,
    )


@pytest.fixture(scope="session")
def model(shape: Architecture) -> TemporalModel:
    """A model that has not learned, but whose every part has a say."""
    return every_part(shape)


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary([f"i{at}" for at in range(ITEMS - 2)])
