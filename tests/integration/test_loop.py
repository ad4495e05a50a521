"""The fast loop on the real servers: events in, recommendations out, and a server that is away."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from confluent_kafka import TIMESTAMP_CREATE_TIME, Message, Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.event_types import CLICK
from headwater_client.events import Click, Recommendation, encode
from headwater_client.topics import DEAD_LETTERS, PARTITIONER

from deploy import local
from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features.columns import decode_user
from features.inputs import MODEL_NAME
from features.kafka import client_config, ensure_topics
from features.rows import UserRow
from features.schema import FeatureSchema
from features.store import USERS, RowRead
from features.store.redis import RedisRowStore
from stream.recommendations import POPULAR_ITEMS, recommendation_id
from tests.harness.models import SETTINGS, untrained
from tests.harness.oracle import read_log, read_topic
from tests.harness.rows import check_items, check_users
from tests.harness.servers import state_in
from tests.harness.workers import WorkerProcess, WorkerProgress, running

pytestmark = pytest.mark.integration
ANSWER_S = 30.0
YEAR_2200_MS = 7_258_118_400_000


class Shop:
    """Servers with a model, a worker, and an app that sends and reads."""

    def __init__(
        self,
        local: Settings,
        settings: Settings,
        producer: EventProducer,
        answers: RecommendationConsumer,
    ) -> None:
        self.local = local
        self.settings = settings
        self.producer = producer
        self._answers = answers

    def act(self, user_id: str, item_id: str) -> Recommendation:
        """A click, and the recommendation that it leads to."""
        click = self.producer.click(user_id=user_id, item_id=item_id)
        return self.answer_to(click.event_id)

    def answer_to(self, event_id: str) -> Recommendation:
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            answer = self._answers.receive(1.0)
            if answer is not None and answer.event_id == event_id:
                return answer
        raise AssertionError(f"no answer to {event_id} in {ANSWER_S} s")

    def until(self, user_id: str, is_so: Callable[[Recommendation], bool]) -> Recommendation:
        """Act until an answer is as it should be."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            answer = self.act(user_id, "i1")
            if is_so(answer):
                return answer
            time.sleep(0.3)
        raise AssertionError(f"still {answer}")


@contextmanager
def open_shop(own: Settings, folder: Path) -> Iterator[Shop]:
    settings = local.up(own)
    ensure_topics(settings.kafka)
    schema = FeatureSchema(settings.features)
    with closing(model_registry(settings, SETTINGS)) as registry:
        registry.publish(untrained(schema, 1))
    worker = WorkerProcess(settings, "shop", folder / "worker.log", catalogue_refresh_s=0.5)
    with (
        EventProducer(settings.kafka.client_settings, {"log_level": 0}) as producer,
        RecommendationConsumer(settings.kafka.client_settings, options={"log_level": 0}) as answers,
        running(worker),
    ):
        for number in range(200):
            producer.item(f"i{number}", title=f"Item {number}", category=[f"c{number % 5}"])
        producer.flush()
        WorkerProgress(settings).wait_for_all(60, [worker])
        yield Shop(own, settings, producer, answers)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    with state_in(folder / "state") as own, open_shop(own, folder) as shop:
        yield shop


def pid_of(shop: Shop, name: str) -> int:
    (pid,) = (each.pid for each in local.status(shop.local) if each.name == name)
    assert pid
    return pid


def item_ids(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def test_an_event_changes_the_next_recommendation(shop: Shop) -> None:
    first = shop.act("ann", "i1")
    assert (first.variant, first.model_version, first.fallback) == ("stable", "1", False)
    assert first.user_id == "ann"
    assert len(set(item_ids(first))) == 10
    assert "i1" not in item_ids(first)
    second = shop.act("ann", item_ids(first)[0])
    assert item_ids(first)[0] not in item_ids(second)
    assert item_ids(second) != item_ids(first)
    assert second.event_time <= second.produced_time


def test_the_answer_to_an_event_has_one_name_however_often_it_is_sent(shop: Shop) -> None:
    click = shop.producer.click(user_id="bob", item_id="i3")
    first = shop.answer_to(click.event_id)
    shop.producer.send(click)
    again = shop.answer_to(click.event_id)
    assert first.recommendation_id == again.recommendation_id == recommendation_id(click)


def test_what_cannot_be_had_is_not_recommended(shop: Shop) -> None:
    best = item_ids(shop.act("cas", "i1"))[0]
    shop.producer.item(best, available=False)
    gone = shop.until("cas", lambda answer: best not in item_ids(answer))
    assert not gone.fallback
    also = item_ids(gone)[0]
    shop.producer.remove_item(also)
    shop.until("cas", lambda answer: also not in item_ids(answer))


def test_without_triton_popular_items_come_marked_and_the_model_returns(shop: Shop) -> None:
    trending = {f"i{number}" for number in range(5, 12)}
    for item in trending:
        shop.act("dan", item)
    os.kill(pid_of(shop, "triton"), signal.SIGKILL)
    answer = shop.until("eve", lambda answer: answer.fallback)
    assert (answer.variant, answer.model_version) == ("stable", POPULAR_ITEMS)
    assert answer.failed
    # A worker's view of the trends may be some seconds old.
    answer = shop.until("eve", lambda answer: trending <= set(item_ids(answer)))
    assert answer.fallback
    assert all(item.reason.kind == "popular" for item in answer.items)
    local.up(shop.local, only=["triton"])
    shop.until("eve", lambda answer: not answer.fallback)


def test_what_takes_traffic_answers_again_though_a_newer_version_is_there(shop: Shop) -> None:
    schema = FeatureSchema(shop.settings.features)
    with closing(model_registry(shop.settings, SETTINGS)) as registry:
        first = registry.repository.version(1)
        assert registry.publish(untrained(schema, 2)).number == 2
        shop.until("hal", lambda answer: answer.model_version == "2")
        registry.announce(first)
        shop.until("hal", lambda answer: answer.model_version == "1")
        # By `up`, before any worker looks.
        os.kill(pid_of(shop, "triton"), signal.SIGKILL)
        shop.until("hal", lambda answer: answer.fallback)
        local.up(shop.local, only=["triton"])
        assert registry.loaded.is_ready(first)
        [triton] = (one for one in local.status(shop.local) if one.name == "triton")
        assert (triton.healthy, triton.serving) == (True, "serves version 1 (routed: 1)")
        shop.until("hal", lambda answer: answer.model_version == "1")
        # By the worker, as after a supervisor has started it again, empty.
        with registry.servers[0].connect() as client:
            client.unload_model(MODEL_NAME)
        shop.until("hal", lambda answer: answer.fallback)
        shop.until("hal", lambda answer: answer.model_version == "1")


def test_without_the_store_consumption_waits_and_nothing_is_lost(shop: Shop) -> None:
    shop.act("fay", "i1")
    store = pid_of(shop, "store")
    os.kill(store, signal.SIGSTOP)
    # Items without a row in the catalogue, and so without categories.
    waiting = [shop.producer.click(user_id=f"gus{n % 9}", item_id=f"x{n % 20}") for n in range(100)]
    shop.producer.flush()
    time.sleep(7)
    os.kill(store, signal.SIGCONT)
    assert shop.answer_to(waiting[-1].event_id)
    WorkerProgress(shop.settings).wait_for_all(60)
    logged = read_log(shop.settings)
    assert {event.event_id for event in logged} >= {event.event_id for event in waiting}
    check_users(shop.settings, [e for e in logged if e.user_id.startswith("gus")], {})
    check_items(shop.settings, logged)


async def stored_row(shop: Shop, user_id: str) -> UserRow:
    store = RedisRowStore(shop.settings.store)
    [stored] = await store.read([RowRead(USERS, user_id, USERS.columns)])
    await store.close()
    return decode_user(stored, FeatureSchema(shop.settings.features))


def make_click(user_id: str, event_id: str, time_ms: int | None = None) -> Click:
    now_ms = int(time.time() * 1000)
    return Click(event_id=event_id, user_id=user_id, item_id="i1", timestamp=time_ms or now_ms)


def sender(shop: Shop, **options: str) -> Producer:
    """A producer that is not ours."""
    return Producer(
        client_config(shop.settings.kafka)
        | {"partitioner": PARTITIONER, "log_level": "0"}
        | {name.replace("_", "."): value for name, value in options.items()}
    )


def test_what_a_producer_took_back_counts_nowhere(shop: Shop) -> None:
    producer = sender(shop, transactional_id="orders")
    producer.init_transactions(ANSWER_S)
    for event_id, is_meant in (("taken-back", False), ("meant", True)):
        producer.begin_transaction()
        producer.produce(CLICK.topic, encode(make_click("una", event_id)), "una")
        producer.flush(ANSWER_S)
        if is_meant:
            producer.commit_transaction(ANSWER_S)
        else:
            # A worker that reads all would have it by now.
            time.sleep(1)
            producer.abort_transaction(ANSWER_S)
    shop.answer_to("meant")
    assert len(asyncio.run(stored_row(shop, "una")).history) == 1


def set_topic(shop: Shop, **config: str) -> None:
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in config.items()
    ]
    topic = ConfigResource(ConfigResource.Type.TOPIC, CLICK.topic, incremental_configs=entries)
    admin = AdminClient(client_config(shop.settings.kafka))
    admin.incremental_alter_configs([topic])[topic].result()


def send_at(shop: Shop, click: Click, message_ms: int) -> Message:
    """Send with a time of the sender's own; the message as Kafka has taken it."""
    taken: list[Message] = []
    producer = sender(shop)
    producer.produce(
        CLICK.topic,
        encode(click),
        click.user_id,
        timestamp=message_ms,
        on_delivery=lambda _, message: taken.append(message),
    )
    assert producer.flush(ANSWER_S) == 0
    return taken[0]


def test_an_event_of_the_year_2200_spoils_nothing_where_times_are_the_senders_own(
    shop: Shop,
) -> None:
    shop.act("vic", "i1")
    try:
        # Somebody changes the topic while the worker runs.
        set_topic(
            shop,
            message_timestamp_type="CreateTime",
            message_timestamp_after_max_ms=str(2**63 - 1),
        )
        poison = make_click("vic", "poison", YEAR_2200_MS)
        while send_at(shop, poison, YEAR_2200_MS).timestamp()[0] != TIMESTAMP_CREATE_TIME:
            time.sleep(0.1)
        good = make_click("vic", "good")
        assert send_at(shop, good, 1).timestamp()[1] == 1
        shop.answer_to("good")
    finally:
        set_topic(shop, message_timestamp_type="LogAppendTime")
    row = asyncio.run(stored_row(shop, "vic"))
    assert (row.reference_ms, len(row.history)) == (good.timestamp, 2)
    assert row.counters[0] > 1
    letters = [json.loads(value) for _, _, value in read_topic(shop.settings, DEAD_LETTERS, 1)]
    assert any("is in the future" in letter["reason"] for letter in letters)
