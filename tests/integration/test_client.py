"""What apps send arrives in Kafka as meant, what cannot arrive is told, and answers come back."""

from __future__ import annotations

import _thread
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from uuid import uuid4

import headwater_client
import pytest
import structlog
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from headwater_client import (
    DeliveryError,
    EventProducer,
    RecommendationConsumer,
    ServerError,
    SettingsError,
)
from headwater_client.errors import EventError
from headwater_client.event_types import CLICK, PURCHASE
from headwater_client.events import Click, Item, Purchase, Recommendation, decode, encode
from headwater_client.topics import DEAD_LETTERS, ITEMS, PARTITIONER, RECOMMENDATIONS, ROLLOUTS

from deploy.jobs.replay import PROGRESS_S, ReplayResult, rate_pace, replay, speed_pace
from deploy.settings import Settings
from features.kafka import ask_bounds, client_config, ensure_topics, topic_consumer, topic_ids
from features.settings import BrokerSettings
from features.topics import Topic, list_topics
from tests.harness.topic_reader import TopicReader
from tests.harness.waiting import wait_until
from trainer.datasets import Log, RefusedRecord

pytestmark = pytest.mark.integration

NOWHERE = headwater_client.KafkaSettings("127.0.0.1:1")
QUICKLY: dict[str, str | int | bool] = {"message.timeout.ms": 300, "log_level": "0"}


@pytest.fixture(scope="module")
def kafka(servers: Settings) -> BrokerSettings:
    ensure_topics(servers.kafka)
    return servers.kafka


@pytest.fixture
def reader(kafka: BrokerSettings) -> Iterator[TopicReader]:
    reader = TopicReader(kafka, CLICK.topic, PURCHASE.topic, ITEMS)
    yield reader
    reader.close()


def recommendation(user: str, number: int = 0) -> Recommendation:
    return Recommendation(
        recommendation_id=f"{user}-{number}",
        user_id=user,
        event_id=f"e{number}",
        items=[],
        model_version="1",
        variant="stable",
        fallback=False,
        event_time=1,
        produced_time=2,
    )


def answer(kafka: BrokerSettings, *recommendations: Recommendation) -> None:
    producer = Producer(client_config(kafka) | {"partitioner": PARTITIONER})
    for one in recommendations:
        producer.produce(RECOMMENDATIONS, encode(one), one.user_id)
    producer.flush(10)


def log_of(count: int, *, every_s: int = 60) -> Log:
    start = 1_714_564_800_000
    events = [
        (Purchase if n % 4 == 3 else Click)(
            event_id=f"e{n}", user_id=f"u{n % 5}", item_id="1", timestamp=start + n * every_s * 1000
        )
        for n in range(count)
    ]
    bad = RefusedRecord("log.csv", 7, "no JSON", CLICK.topic, b"not JSON")
    return Log(events, [Item(item_id="1"), Item(item_id="2")], [bad])


def test_what_is_sent_arrives_on_its_topic_with_its_key(
    kafka: BrokerSettings, reader: TopicReader
) -> None:
    with EventProducer(kafka.client_settings) as events:
        click = events.click(user_id="ann", item_id="7", price=2, session_id="s")
        bought = events.purchase(user_id="ann", item_id="7", quantity=3)
        item = events.item("7", title="Lamp", category=["light"])
        events.remove_item("8")
    found = {(m.topic(), (m.key() or b"").decode()): m for m in reader.read(4)}
    assert decode(Click, found[CLICK.topic, "ann"].value()) == click
    assert decode(Purchase, found[PURCHASE.topic, "ann"].value()) == bought
    assert decode(Item, found[ITEMS, "7"].value()) == item
    assert found[ITEMS, "8"].value() is None
    assert found[CLICK.topic, "ann"].partition() == found[PURCHASE.topic, "ann"].partition()


def test_what_breaks_the_contract_does_not_leave(
    kafka: BrokerSettings, reader: TopicReader
) -> None:
    with EventProducer(kafka.client_settings) as events:
        for field, wrong in (("price", float("inf")), ("timestamp", 5), ("position", -1)):
            with pytest.raises(EventError, match=field):
                events.click(user_id="ann", item_id="7", **{field: wrong})
        with pytest.raises(EventError, match=r"context\.size: nan"):
            events.purchase(user_id="ann", item_id="7", context={"size": float("nan")})
        with pytest.raises(EventError, match="item_id"):
            events.remove_item("")
        with pytest.raises(EventError, match="JSON"):
            events.item("\ud800")
        events.click(user_id="ann", item_id="7", event_id="good")
    [only] = reader.read(1)
    assert decode(Click, only.value()).event_id == "good"


def test_a_full_local_queue_is_waited_for_and_nothing_is_lost(
    kafka: BrokerSettings, reader: TopicReader
) -> None:
    log = log_of(3000, every_s=1)
    with EventProducer(kafka.client_settings, {"queue.buffering.max.messages": 100}) as events:
        for event in log.events:
            events.send(event)
    found = reader.read(3000)
    assert len({m.value() for m in found}) == 3000
    by_person = [m.value() for m in found if (m.key(), m.topic()) == (b"u1", CLICK.topic)]
    sent = [encode(e) for e in log.events if e.user_id == "u1" and isinstance(e, Click)]
    assert by_person == sent


def test_a_thread_sends_while_the_process_forks(kafka: BrokerSettings, reader: TopicReader) -> None:
    sent: list[str] = []
    stopped = threading.Event()
    with EventProducer(kafka.client_settings) as events:

        def send() -> None:
            while not stopped.wait(0.0005):
                sent.append(events.click(user_id="ann", item_id="1").event_id)

        thread = threading.Thread(target=send)
        thread.start()
        for _ in range(10):
            if (child := os.fork()) == 0:
                os._exit(0)
            os.waitpid(child, 0)
        stopped.set()
        thread.join()
    assert [decode(Click, m.value()).event_id for m in reader.read(len(sent))] == sent


@pytest.mark.parametrize("says", ["more", "no more"])
def test_a_producer_that_has_lost_its_brokers_hands_on_what_it_had(
    kafka: BrokerSettings, reader: TopicReader, says: str
) -> None:
    with EventProducer(kafka.client_settings) as events:
        # As good as one that knows of no broker: nobody ever answers it.
        config = {**events._config, "bootstrap.servers": "127.0.0.1:1", "log_level": "0"}
        events._bind(Producer(config))
        sent = [events.click(user_id="ann", item_id=f"{n}").event_id for n in range(3)]
        tell_of_no_brokers(events)
        if says == "more":
            sent.append(events.click(user_id="ann", item_id="last").event_id)
    assert [decode(Click, m.value()).event_id for m in reader.read(len(sent))] == sent


@pytest.mark.parametrize("group", [None, "an app"])
def test_a_consumer_that_has_lost_its_brokers_goes_on_where_it_was(
    kafka: BrokerSettings, group: str | None
) -> None:
    user = str(uuid4())
    with RecommendationConsumer(
        kafka.client_settings, group and f"{group} {user}", 10, {"auto.offset.reset": "earliest"}
    ) as consumer:
        mine = (one.event_id for one in consumer if one.user_id == user)
        answer(kafka, recommendation(user, 0), recommendation(user, 1))
        assert [next(mine) for _ in range(2)] == ["e0", "e1"]
        tell_of_no_brokers(consumer)
        answer(kafka, recommendation(user, 2))
        assert next(mine) == "e2"


def tell_of_no_brokers(client: EventProducer | RecommendationConsumer) -> None:
    """As the statistics of a client that is lost, twice in a row."""
    for _ in range(2):
        client._hear('{"brokers": {}}')


def test_what_kafka_does_not_take_is_raised_with_the_message() -> None:
    events = EventProducer(NOWHERE, QUICKLY)
    click = events.click(user_id="ann", item_id="7")
    with pytest.raises(DeliveryError, match="did not take a message for clicks") as error:
        events.flush(10)
    [undelivered] = error.value.undelivered
    assert (undelivered.key, undelivered.value) == ("ann", encode(click))
    events.close()


def test_an_earlier_failure_is_raised_by_the_next_call() -> None:
    events = EventProducer(NOWHERE, QUICKLY)
    events.click(user_id="ann", item_id="7")

    def go_on() -> None:
        for _ in range(100):
            time.sleep(0.1)
            events.click(user_id="bob", item_id="7")

    with pytest.raises(DeliveryError):
        go_on()
    with pytest.raises(DeliveryError):
        events.close()


def test_what_is_still_on_its_way_at_the_end_is_raised() -> None:
    events = EventProducer(NOWHERE, {"log_level": "0"})
    events.click(user_id="ann", item_id="7")
    with pytest.raises(DeliveryError, match="1 messages not delivered"):
        events.flush(0.1)
    with pytest.raises(DeliveryError) as error:
        events.close(0.1)
    assert len(error.value.undelivered) == 1


def test_a_failure_does_not_hide_the_error_that_came_first() -> None:
    def fail() -> None:
        with EventProducer(NOWHERE, QUICKLY) as events:
            events.click(user_id="ann", item_id="7")
            raise KeyError("first")

    with pytest.raises(KeyError) as error:
        fail()
    assert "did not take" in error.value.__notes__[0]


def test_without_a_group_all_from_now_on(kafka: BrokerSettings) -> None:
    answer(kafka, recommendation("before"))
    with RecommendationConsumer(kafka.client_settings, timeout_s=2) as first:
        with RecommendationConsumer(kafka.client_settings, timeout_s=2) as second:
            answer(kafka, *(recommendation(f"u{n}") for n in range(20)))
            for consumer in (first, second):
                assert {one.user_id for one in consumer} == {f"u{n}" for n in range(20)}
        assert first.receive(0.1) is None


def test_a_group_goes_on_with_what_was_not_done(kafka: BrokerSettings) -> None:
    group = f"app-{uuid4()}"
    earliest = {"auto.offset.reset": "earliest"}
    user = str(uuid4())
    answer(kafka, *(recommendation(user, n) for n in range(5)))

    def of_user(consumer: RecommendationConsumer) -> Iterator[str]:
        return (one.event_id for one in consumer if one.user_id == user)

    with RecommendationConsumer(
        kafka.client_settings, group, timeout_s=10, options=earliest
    ) as consumer:
        mine = of_user(consumer)
        assert [next(mine) for _ in range(3)] == ["e0", "e1", "e2"]
    with RecommendationConsumer(
        kafka.client_settings, group, timeout_s=3, options=earliest
    ) as consumer:
        # The third was received, but never done.
        assert list(of_user(consumer)) == ["e2", "e3", "e4"]


def test_a_message_that_is_no_recommendation_is_told_and_passed(
    kafka: BrokerSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with RecommendationConsumer(kafka.client_settings) as consumer:
        producer = Producer(client_config(kafka) | {"partitioner": PARTITIONER})
        producer.produce(RECOMMENDATIONS, b"{}", "ann")
        producer.flush(10)
        answer(kafka, recommendation("ann"))
        with pytest.raises(EventError, match="recommendation_id"):
            consumer.receive(10)
        received = consumer.receive(10)
        answer(kafka, recommendation("ann"))
        producer.produce(RECOMMENDATIONS, b"[" * 5_000, "ann")
        producer.flush(10)
        answer(kafka, recommendation("ann"))
        people = [found.user_id for found in islice(consumer, 2)]
    assert received == recommendation("ann")
    assert people == ["ann", "ann"]
    assert "no recommendation: <message>: " in caplog.text


def test_a_consumer_without_kafka_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headwater_client.consumer.ANSWER_S", 0.5)
    with pytest.raises(ServerError, match=r"check kafka\.bootstrap_servers"):
        RecommendationConsumer(NOWHERE, options={"log_level": "0"})


def test_topics_are_made_once_and_keep_their_ids(kafka: BrokerSettings) -> None:
    ids = ensure_topics(kafka)
    assert ensure_topics(kafka) == ids
    assert topic_ids(kafka, [CLICK.topic, "nowhere"]) == {CLICK.topic: ids[CLICK.topic]}
    assert len(set(ids.values())) == len(ids)


def test_a_topic_made_anew_has_another_id(kafka: BrokerSettings) -> None:
    topic = Topic(f"test-{uuid4()}", True, {})
    before = ensure_topics(kafka, [topic])
    admin = AdminClient({**client_config(kafka)})
    admin.delete_topics([topic.name])[topic.name].result()
    after = ensure_topics(kafka, [topic])
    assert before.keys() == after.keys()
    assert before != after


def test_a_client_that_knows_less_of_a_topic_than_there_is_looks_again(
    kafka: BrokerSettings,
) -> None:
    """As where a process of Kafka slept: librdkafka would say `Unknown partition` for minutes."""
    topic = Topic(f"test-{uuid4()}", False, {})
    ensure_topics(kafka, [topic])
    with closing(topic_consumer(kafka, topic.name)) as consumer:
        assert ask_bounds(consumer, [(topic.name, 0)]) == {(topic.name, 0): (0, 0)}
        admin = AdminClient({**client_config(kafka)})
        admin.create_partitions([NewPartitions(topic.name, 2)])[topic.name].result()
        assert ask_bounds(consumer, [(topic.name, 1)]) == {(topic.name, 1): (0, 0)}


def test_another_number_of_partitions_is_refused(kafka: BrokerSettings) -> None:
    other = kafka.model_copy(update={"partitions": kafka.partitions + 1})
    with pytest.raises(SettingsError, match=rf"partitions to {kafka.partitions}") as error:
        ensure_topics(other)
    assert "\n" not in str(error.value)


def made_by_hand(
    kafka: BrokerSettings, like: str, partitions: int, config: dict[str, str]
) -> Topic:
    """A topic that somebody else has made, to be used as one of Headwater's."""
    [topic] = [replace(t, name=f"{like}-{uuid4()}") for t in list_topics() if t.name == like]
    new = NewTopic(topic.name, partitions, 1, config=config)
    admin = AdminClient(client_config(kafka))
    admin.create_topics([new])[topic.name].result()
    wait_until(lambda: topic_ids(kafka, [topic.name]), 20)
    return topic


def test_topics_that_others_made_wrong_are_refused_with_a_line_each(kafka: BrokerSettings) -> None:
    wrong = [
        made_by_hand(kafka, CLICK.topic, kafka.partitions, {"cleanup.policy": "compact"}),
        made_by_hand(kafka, RECOMMENDATIONS, 1, {"message.timestamp.type": "LogAppendTime"}),
        made_by_hand(kafka, ROLLOUTS, 3, {}),
        made_by_hand(kafka, DEAD_LETTERS, 1, {"max.message.bytes": "1000"}),
    ]
    with pytest.raises(SettingsError) as refused:
        ensure_topics(kafka, wrong)
    lines = str(refused.value).splitlines()
    expected = [
        (0, "message.timestamp.type is CreateTime"),
        (0, "cleanup.policy is compact"),
        (1, f"has 1 partitions, and events have {kafka.partitions}"),
        (2, "has 3 partitions: its order needs one"),
        (2, "cleanup.policy is delete"),
        (3, "max.message.bytes is 1000"),
    ]
    assert len(lines) == len(expected)
    for at, problem in expected:
        assert any(wrong[at].name in line and problem in line for line in lines), problem


def test_a_topic_that_is_only_weak_is_used_and_told(kafka: BrokerSettings) -> None:
    weak = made_by_hand(kafka, DEAD_LETTERS, 2, {"retention.ms": "1000"})
    with structlog.testing.capture_logs() as told:
        assert ensure_topics(kafka, [weak])
    [line] = [entry for entry in told if entry["event"] == "topic_weak"]
    assert line["topic"] == weak.name
    assert "retention.ms is 1000" in line["problem"]


def test_missing_topics_are_made_only_where_the_settings_say_so(kafka: BrokerSettings) -> None:
    missing = Topic(f"test-{uuid4()}", True, {})
    by_hand = kafka.model_copy(update={"create_topics": False})
    with pytest.raises(SettingsError, match=rf"no topic {missing.name}: create") as refused:
        ensure_topics(by_hand, [missing])
    assert "\n" not in str(refused.value)
    assert not topic_ids(kafka, [missing.name])
    ensure_topics(kafka, [missing])
    assert ensure_topics(by_hand, [missing])


def test_a_replay_sends_all_and_counts(kafka: BrokerSettings, reader: TopicReader) -> None:
    log = log_of(100)
    with EventProducer(kafka.client_settings) as producer:
        sent = replay(log, producer)
    assert (sent.items, sent.refused) == (2, 1)
    assert sent.events_by_type == {"click": 75, "purchase": 25}
    assert not sent.interrupted
    found = reader.read(103)
    assert [m.value() for m in found].count(b"not JSON") == 1
    ids = {
        decode(Click, m.value()).event_id
        for m in found
        if m.topic() == CLICK.topic and m.value() != b"not JSON"
    }
    assert ids == {f"e{n}" for n in range(100) if n % 4 != 3}


def test_a_replay_keeps_its_pace(kafka: BrokerSettings) -> None:
    told: list[ReplayResult] = []
    with EventProducer(kafka.client_settings) as producer:
        # A producer's first message takes half a second.
        replay(log_of(1), producer)
        by_time = replay(log_of(11, every_s=60), producer, speed_pace(600, 1_714_564_800_000))
        by_rate = replay(log_of(200), producer, rate_pace(200), told.append)
    # No sooner than it is due; how exactly, a clock of its own shows in the unit tests.
    assert by_time.seconds >= 1.0
    assert by_rate.seconds >= 199 / 200
    assert 1 <= len(told) <= by_rate.seconds / PROGRESS_S


def test_ctrl_c_ends_a_replay_cleanly(kafka: BrokerSettings, reader: TopicReader) -> None:
    # A shell's background job ignores SIGINT, and so would Python.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    def interrupt_once(sent: ReplayResult) -> None:
        if sent.events >= 10 and not interrupted:
            interrupted.append(sent.events)
            _thread.interrupt_main()

    interrupted: list[int] = []
    try:
        with EventProducer(kafka.client_settings) as producer:
            sent = replay(log_of(1000), producer, rate_pace(100), interrupt_once)
    finally:
        signal.signal(signal.SIGINT, before)
    assert sent.interrupted
    assert [sent.events] == interrupted
    reader.read(sent.events + sent.items + sent.refused)
