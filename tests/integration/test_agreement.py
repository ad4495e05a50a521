"""Training rows and online rows are the same: 10,000 events of MovieLens-100K, row by row.

A worker makes the online rows. People are fed to it, each up to just before a sampled event, and
their rows are then read by plain Feast: what the stream knows when that event comes. The training
rows of the same events come out of windows.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from headwater_client import EventProducer
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction, Item

from deploy import local
from deploy.jobs.replay import replay
from deploy.settings import Settings
from features import rows
from features.inputs import trend_values, user_features
from features.kafka import ensure_topics
from features.rows import ItemGroup, UserRow
from features.schema import FeatureSchema, Vocabulary
from features.store import USERS, item_sources
from tests.harness.rows import open_feast, rows_of, user_row
from tests.harness.servers import state_in
from tests.harness.waiting import wait_until
from tests.harness.windows import window_examples
from tests.harness.workers import WorkerProcess, running, without_model
from trainer.datasets import DataSource, Log, load_log
from trainer.examples import Example, compute_trends, order_by_person
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore, read_log
from trainer.windows.writer import WindowLoader

pytestmark = pytest.mark.integration
SEED = 7
# Of so many events, those of people drawn at random, this many are compared.
EVENTS, COMPARED = 6_000, 2_500
RELATIVE = 1e-6
# Below this a difference is compared with it: a counter that has faded to 1e-300 is nothing.
FLOOR = 1e-9
DAY_S = 86_400
History = list[tuple[int, int, int]]


@dataclass(frozen=True)
class Known:
    """A sampled event: its place among its person's, and their online row when it came."""

    place: int
    row: UserRow


@dataclass(frozen=True)
class Played:
    """What a worker made of a log, and the same log in windows.

    Attributes:
        known: by event_id.
        popularity: online rows of items after the whole log, by item_id.
    """

    settings: Settings
    log: Log
    windows: WindowStore
    known: Mapping[str, Known]
    popularity: Mapping[str, dict[str, Any]]

    @property
    def schema(self) -> FeatureSchema:
        return FeatureSchema(self.settings.features)

    @cached_property
    def trained(self) -> list[Example]:
        """The training rows of all events, in the order of the log."""
        return self.training(self.schema)

    def training(self, schema: FeatureSchema) -> list[Example]:
        numbers = self.windows.numbers()
        windows = window_examples(self.windows, numbers, self.log.items, schema)
        return [example for window in windows for example in window]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    folder = tmp_path_factory.mktemp("agreement")
    with state_in(folder / "state") as own:
        settings = local.up(own, only=["kafka", "store"])
        ensure_topics(settings.kafka)
        log = some_people(load_log(DataSource(settings.local.cache_dir)))
        windows = WindowStore(str(folder / "windows"))
        loader = WindowLoader(log.fingerprint, windows, WindowSettings(duration_s=DAY_S))
        list(loader.write(log.events))
        in_windows = read_log(windows, windows.numbers()).events
        yield play(settings, folder, Log(in_windows, log.items), windows)


def some_people(log: Log) -> Log:
    people: dict[str, list[Interaction]] = defaultdict(list)
    for event in log.events:
        people[event.user_id].append(event)
    drawn = random.Random(SEED).sample(sorted(people), len(people))
    kept, size = set(), 0
    while size < EVENTS:
        name = drawn.pop()
        kept.add(name)
        size += len(people[name])
    return Log([event for event in log.events if event.user_id in kept], log.items)


def play(settings: Settings, folder: Path, log: Log, windows: WindowStore) -> Played:
    sample = set(random.Random(SEED).sample([e.event_id for e in log.events], COMPARED))
    worker = WorkerProcess(without_model(settings), "worker", folder / "worker.log")
    store = open_feast(settings)
    with running(worker), EventProducer(settings.kafka.client_settings) as producer:
        replay(log.head(0), producer)
        wait_until(lambda: catalogue_is_known(store, log.items), 60)
        people = [Feed(events, sample) for events in per_person(log.events)]
        known: dict[str, Known] = {}
        while people:
            for feed in people:
                for event in feed.due():
                    producer.send(event)
            producer.flush(60)
            online = rows_once(store, people, settings)
            for feed in people:
                if (event := feed.coming) is not None:
                    known[event.event_id] = Known(feed.sent, online[event.user_id])
            people = [feed for feed in people if feed.coming]
        return Played(settings, log, windows, known, item_rows(store, log.items, settings))


class Feed:
    """One person's events, handed out up to just before the next sampled one."""

    def __init__(self, events: Sequence[Interaction], sample: set[str]) -> None:
        self.user_id = events[0].user_id
        self.sent = 0
        self._events = events
        self._stops = iter([at for at, e in enumerate(events) if e.event_id in sample])
        self.coming: Interaction | None = None

    def due(self) -> Sequence[Interaction]:
        """The events before the next sampled one, which is then `coming`; at last the rest."""
        stop = next(self._stops, None)
        self.coming = None if stop is None else self._events[stop]
        begin, self.sent = self.sent, len(self._events) if stop is None else stop
        return self._events[begin : self.sent]


def per_person(events: Sequence[Interaction]) -> list[list[Interaction]]:
    people: dict[str, list[Interaction]] = defaultdict(list)
    for event in events:
        people[event.user_id].append(event)
    return list(people.values())


def catalogue_is_known(store: Any, items: Sequence[Item]) -> bool:
    found = rows_of(store, "item_id", [i.item_id for i in items], ["item_catalogue:available"])
    return all(row["available"] is not None for row in found)


def rows_once(store: Any, people: Sequence[Feed], settings: Settings) -> dict[str, UserRow]:
    """The rows of these people by plain Feast, once the worker has absorbed all that was sent."""
    schema = FeatureSchema(settings.features)
    sent = {feed.user_id: feed.sent for feed in people}
    missing = set(sent)

    def all_absorbed() -> bool:
        counters = rows_of(store, "user_id", sorted(missing), ["user_activity:counters"])
        missing.difference_update(
            row["user_id"]
            for row in counters
            if count_events(row["counters"] or [], schema) == sent[row["user_id"]]
        )
        return not missing

    wait_until(all_absorbed, 60)
    features = [f"user_activity:{name}" for name in USERS.columns]
    rows = rows_of(store, "user_id", list(sent), features)
    return {row["user_id"]: user_row(row, schema) for row in rows}


def count_events(counters: Sequence[float], schema: FeatureSchema) -> int:
    size = len(schema.user_half_lives)
    return round(sum(counters[size - 1 :: size]))


def item_rows(store: Any, items: Sequence[Item], settings: Settings) -> dict[str, dict[str, Any]]:
    names = [f"item_popularity:{name}" for name in item_sources(settings.kafka.partitions)]
    found = rows_of(store, "item_id", [item.item_id for item in items], names)
    return {row["item_id"]: row for row in found}


def greatest_difference(played: Played, training: Sequence[Example]) -> float:
    """Relative, over all features of the sampled events, to what the stream reads."""
    schema, pairs = played.schema, []
    for event, example in zip(played.log.events, training, strict=True):
        if known := played.known.get(event.event_id):
            row = known.row
            pairs += [
                (example.features, user_features(row, event.timestamp, schema)),
                (
                    example.features_after_last,
                    user_features(row, row.reference_ms or event.timestamp, schema),
                ),
            ]
    assert len(pairs) == 2 * COMPARED
    trained, online = np.asarray(pairs).transpose(1, 0, 2)
    return float(np.max(np.abs(trained - online) / np.maximum(np.abs(online), FLOOR)))


def test_features_as_of_each_event_agree(played: Played) -> None:
    difference = greatest_difference(played, played.trained)
    print(f"{len(played.known)} events compared, greatest relative difference {difference:.1e}")
    assert difference < RELATIVE


@pytest.mark.parametrize("name", ["user_half_lives_ms", "category_half_lives_ms"])
def test_a_half_life_that_differs_by_a_thousandth_shows(played: Played, name: str) -> None:
    *faster, slowest = getattr(played.settings.features, name)
    changed = (*faster, round(slowest * 1.001))
    training = FeatureSchema(played.settings.features.model_copy(update={name: changed}))
    assert greatest_difference(played, played.training(training)) > RELATIVE


def test_histories_as_of_each_event_agree(played: Played) -> None:
    compared, length = 0, played.settings.features.history_length
    ordered = order_by_person(played.trained)
    events = [event for person in per_person(played.log.events) for event in person]
    seen: defaultdict[str, History] = defaultdict(list)
    for event, example in zip(events, ordered, strict=True):
        before = seen[event.user_id]
        if known := played.known.get(event.event_id):
            compared += 1
            assert known.place == len(before)
            newest = sorted(before)[-length:]
            assert known.row.history == newest, event
        one = example.event
        before.append((one.time_ms, int(one.type), one.item))
    assert compared == COMPARED


def test_what_trends_agrees(played: Played) -> None:
    schema, log = played.schema, [example.event for example in played.trained]
    # A moment after the log: its snapshot holds all of it.
    after_ms = log[-1].time_ms // 1000 * 1000 + 1000
    vocabulary = Vocabulary(sorted(played.popularity))
    made = compute_trends(
        [*log, log[-1]._replace(time_ms=after_ms)], vocabulary, schema, 1000, after_ms
    )
    assert made.times_ms.tolist() == [after_ms]
    names = [name for name, row in played.popularity.items() if any(groups(row))]
    trained = made.values[0][:, vocabulary.indices_of(names)].T.astype(np.float64)
    online = np.asarray(
        [
            trend_values(rows.popularity(groups(played.popularity[name]), after_ms, schema))
            for name in names
        ]
    )
    print(f"{len(names)} items compared")
    # The trainer keeps trends in half precision.
    assert trained == pytest.approx(online, rel=2**-10, abs=1e-7)


def groups(row: Mapping[str, Any]) -> list[tuple[Any, ItemGroup]]:
    return [
        (
            EVENT_TYPES.spec_of_topic(column.rpartition("_")[0]).code,
            ItemGroup(values, int(source), int(offset), int(reference_ms)),
        )
        for column, cell in row.items()
        if column != "item_id" and cell is not None
        for source, offset, reference_ms, *values in [cell]
    ]
