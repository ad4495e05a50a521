"""What the log has of one person, from a real Kafka and from windows where Kafka has it no more."""

from __future__ import annotations

from contextlib import closing
from itertools import islice
from pathlib import Path
from threading import Event

import pytest
from confluent_kafka import TopicPartition
from headwater_client import EventProducer
from headwater_client.event_types import CLICK, PURCHASE

from deploy.jobs.past_rows import build_row
from deploy.jobs.person_log import PersonLog, PersonLogReader, ReadingBounds
from deploy.settings import Settings
from features.columns import CatalogueEntry
from features.kafka import ensure_sources, partition_bounds
from features.kafka.admin import make_client
from features.schema import FeatureSchema
from features.topics import partition_of
from tests.harness.servers import renew_topics
from trainer.windows.settings import WindowSettings
from trainer.windows.store import WindowStore
from trainer.windows.writer import WindowWriter

pytestmark = pytest.mark.integration
START_MS = 1_700_000_000_000 // 3_600_000 * 3_600_000
PEOPLE = ("ann", "bob", "cleo")


@pytest.fixture
def settings(kafka_and_store: Settings, tmp_path: Path) -> Settings:
    """Empty topics, and windows in a folder of their own."""
    renew_topics(kafka_and_store.kafka)
    windows = WindowSettings(address=str(tmp_path / "windows"), idle_s=0.5)
    return kafka_and_store.model_copy(update={"windows": windows})


def send(settings: Settings, first: int, count: int) -> None:
    """What three people click and buy, a minute each."""
    with EventProducer(settings.kafka.client_settings) as producer:
        for number in range(first, first + count):
            time_ms = START_MS + 60_000 * number
            for person in PEOPLE:
                producer.click(
                    user_id=person,
                    item_id=f"i{number}",
                    timestamp=time_ms,
                    event_id=f"{person}-{number}",
                )
            if number % 3 == 0:
                producer.purchase(
                    user_id="ann",
                    item_id=f"i{number}",
                    timestamp=time_ms + 1,
                    event_id=f"b{number}",
                )


def read(settings: Settings, person: str, **bounds: int) -> PersonLog:
    sources = ensure_sources(settings.kafka)
    return PersonLogReader(settings, sources, ReadingBounds(**bounds)).read_log(person)


def list_records(log: PersonLog) -> list[tuple[str, str]]:
    return [(each.event.user_id, each.event.event_id) for each in log.records if each.event]


def forget_all(settings: Settings) -> None:
    """As retention does: Kafka has nothing of before now."""
    places = [
        (topic, number)
        for topic in (CLICK.topic, PURCHASE.topic)
        for number in range(settings.kafka.partitions)
    ]
    bounds = partition_bounds(settings.kafka, places)
    ends = [TopicPartition(*place, end) for place, (_, end) in bounds.items() if end]
    # Held: what a client was asked is answered as long as it lives.
    client = make_client(settings.kafka)
    for future in client.delete_records(ends).values():
        future.result()


def test_a_persons_log_is_theirs_alone_and_in_order(settings: Settings) -> None:
    send(settings, 0, 6)
    log = read(settings, "ann")
    assert log.missing == []
    assert {person for person, _ in list_records(log)} == {"ann"}
    assert sorted(name for _, name in list_records(log)) == sorted(
        [*(f"ann-{number}" for number in range(6)), "b0", "b3"]
    )
    for source in {each.source for each in log.records}:
        own = [each.offset for each in log.records if each.source == source]
        assert own == sorted(own)
    assert list_records(read(settings, "nobody")) == []


def test_what_kafka_has_no_more_is_taken_from_windows(settings: Settings) -> None:
    send(settings, 0, 6)
    before = read(settings, "ann")
    store = WindowStore(settings.windows_address)
    with closing(WindowWriter(settings.kafka, store, settings.windows).run(Event())) as written:
        list(islice(written, 1))
    assert sum(len(store.read(number).rows) for number in store.numbers()) == 20
    forget_all(settings)
    send(settings, 6, 3)
    log = read(settings, "ann")
    assert log.missing == []
    assert sorted(list_records(log)) == sorted(
        [
            *list_records(before),
            *(("ann", f"ann-{number}") for number in range(6, 9)),
            ("ann", "b6"),
        ]
    )
    # The same events make the same row, wherever they were read.
    schema = FeatureSchema(settings.features)
    entries = {f"i{number}": CatalogueEntry() for number in range(9)}
    whole = build_row(log.records, entries, schema)
    first = build_row(log.records[: len(before.records)], entries, schema)
    assert first.history == build_row(before.records, entries, schema).history
    assert first.counters == pytest.approx(build_row(before.records, entries, schema).counters)
    assert len(whole.history) == len(log.records)


def test_what_is_nowhere_any_more_is_said(settings: Settings) -> None:
    send(settings, 0, 3)
    forget_all(settings)
    send(settings, 3, 2)
    log = read(settings, "ann")
    assert sorted(name for _, name in list_records(log)) == ["ann-3", "ann-4", "b3"]
    (missing,) = log.missing
    own = partition_of("ann", settings.kafka.partitions)
    assert f"clicks/{own} before " in missing
    assert missing.endswith("and there are no windows")
    # A bound leaves out what is older, too.
    (missing,) = read(settings, "ann", events=1).missing
    assert f"clicks/{own} before " in missing
