"""The fast loop on the real servers: events in, recommendations out, and a server that is away."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.events import Recommendation

from bench.harness.processes import local_settings
from deploy import local
from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from stream.recommender import POPULAR_ITEMS, recommendation_id
from tests.harness.models import SETTINGS, untrained
from tests.harness.oracle import read_log
from tests.harness.rows import check_items, check_users
from tests.harness.workers import WorkerProcess, WorkerProgress, running

pytestmark = pytest.mark.integration
ANSWER_S = 30.0


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
    own = local_settings(folder / "state")
    try:
        with open_shop(own, folder) as shop:
            yield shop
    finally:
        local.down(own)


def pid_of(shop: Shop, name: str) -> int:
    (pid,) = (each.pid for each in local.status(shop.local) if each.name == name)
    assert pid
    return pid


def listed(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def test_an_event_changes_the_next_recommendation(shop: Shop) -> None:
    first = shop.act("ann", "i1")
    assert (first.variant, first.model_version, first.fallback) == ("stable", "1", False)
    assert first.user_id == "ann"
    assert len(set(listed(first))) == 10
    assert "i1" not in listed(first)
    second = shop.act("ann", listed(first)[0])
    assert listed(first)[0] not in listed(second)
    assert listed(second) != listed(first)
    assert second.event_time <= second.produced_time


def test_the_answer_to_an_event_has_one_name_however_often_it_is_sent(shop: Shop) -> None:
    click = shop.producer.click(user_id="bob", item_id="i3")
    first = shop.answer_to(click.event_id)
    shop.producer.send(click)
    again = shop.answer_to(click.event_id)
    assert first.recommendation_id == again.recommendation_id == recommendation_id(click)


def test_what_cannot_be_had_is_not_recommended(shop: Shop) -> None:
    best = listed(shop.act("cas", "i1"))[0]
    shop.producer.item(best, available=False)
    gone = shop.until("cas", lambda answer: best not in listed(answer))
    assert not gone.fallback
    also = listed(gone)[0]
    shop.producer.remove_item(also)
    shop.until("cas", lambda answer: also not in listed(answer))


def test_without_triton_popular_items_come_marked_and_the_model_returns(shop: Shop) -> None:
    trending = {f"i{number}" for number in range(5, 12)}
    for item in trending:
        shop.act("dan", item)
    os.kill(pid_of(shop, "triton"), signal.SIGKILL)
    answer = shop.until("eve", lambda answer: answer.fallback)
    assert (answer.variant, answer.model_version) == ("stable", POPULAR_ITEMS)
    assert answer.failed
    # A worker's view of the trends may be some seconds old.
    answer = shop.until("eve", lambda answer: trending <= set(listed(answer)))
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
        assert registry.is_ready(first)
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
