"""A producer whose queue is full, whose Kafka is away, or whose process was forked.

librdkafka's own broker for tests stands for Kafka where it is there.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest
from headwater_client import (
    DeliveryError,
    EventError,
    EventProducer,
    ForkedError,
    HeadwaterError,
    KafkaSettings,
    QueueFullError,
    RecommendationConsumer,
    Undelivered,
    WhenFull,
)

NOWHERE = KafkaSettings("127.0.0.1:1")
SMALL: dict[str, str | int | bool] = {"queue.buffering.max.messages": 5, "log_level": "0"}
BROKER: dict[str, str | int | bool] = {"test.mock.num.brokers": "1", "log_level": "0"}


def click_often(events: EventProducer, count: int) -> None:
    for number in range(count):
        events.click(user_id="ann", item_id=f"{number}")


def test_a_full_queue_is_waited_for_no_longer_than_said() -> None:
    events = EventProducer(NOWHERE, SMALL, max_wait_s=0.2)
    click_often(events, 5)
    start = time.monotonic()
    with pytest.raises(QueueFullError, match=r"clicks: the local queue is full") as error:
        events.click(user_id="bob", item_id="late")
    assert time.monotonic() - start >= 0.2
    [unsent] = error.value.undelivered
    assert (unsent.key, unsent.topic) == ("bob", "clicks")
    with pytest.raises(DeliveryError, match="did not take 5 messages") as left:
        events.close(0)
    assert len(left.value.undelivered) == 5


def test_a_full_queue_may_raise_at_once() -> None:
    events = EventProducer(NOWHERE, SMALL, when_full="raise", max_wait_s=100)
    click_often(events, 5)
    with pytest.raises(QueueFullError):
        events.click(user_id="ann", item_id="late")
    with pytest.raises(DeliveryError):
        events.close(0)


def test_a_full_queue_may_drop_and_says_how_many(caplog: pytest.LogCaptureFixture) -> None:
    lost: list[Undelivered] = []
    with EventProducer(
        NOWHERE, SMALL, when_full=WhenFull.DROP, on_undelivered=lost.append
    ) as events:
        click_often(events, 8)
        assert events.dropped == 3
        events.close(0)
    assert events.dropped == len(lost) == 8
    assert [m.reason for m in lost[:3]] == ["the local queue is full"] * 3
    assert "8 messages were not delivered" in caplog.text


def test_a_callback_hears_of_failures_instead_of_the_next_call() -> None:
    lost: list[Undelivered] = []
    options = {"message.timeout.ms": 100, "log_level": "0"}
    events = EventProducer(NOWHERE, options, on_undelivered=lost.append)
    click_often(events, 3)
    events.flush(10)
    events.click(user_id="ann", item_id="more")
    assert [message.topic for message in lost] == ["clicks"] * 3
    events.close(0)
    assert events.dropped == len(lost) == 4


def test_an_unknown_choice_or_event_type_is_told() -> None:
    with pytest.raises(ValueError, match="sometimes"):
        EventProducer(NOWHERE, when_full="sometimes")
    events = EventProducer(NOWHERE, {"log_level": "0"})
    with pytest.raises(EventError, match="expected one of click, purchase"):
        events.send_interaction("wish", user_id="ann", item_id="1")


def in_child(act: Callable[[], None]) -> int:
    """The exit status of a forked process that does it and leaves as Python does."""
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        try:
            act()
        except HeadwaterError as error:
            print(error, file=sys.stderr, flush=True)
            os._exit(7)
        except BaseException:  # noqa: BLE001
            os._exit(8)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_after_a_fork_the_child_sends_by_a_connection_of_its_own() -> None:
    events = EventProducer(KafkaSettings("127.0.0.1:1"), BROKER)
    events.click(user_id="ann", item_id="1")

    def send() -> None:
        events.click(user_id="bob", item_id="1")
        events.flush(10)
        events.close(5)

    assert in_child(send) == 0
    # The parent goes on: nothing of it was closed.
    events.click(user_id="cyd", item_id="1")
    events.flush(10)
    events.close(5)


def test_no_fork_copies_a_lock_of_librdkafka() -> None:
    # Its threads are busiest right after a producer is made.
    for _ in range(15):
        events = EventProducer(NOWHERE, BROKER)

        def send(events: EventProducer = events) -> None:
            events.click(user_id="bob", item_id="1")
            events.flush(5)

        assert in_child(send) == 0
        events.click(user_id="ann", item_id="1")
        events.close(5)


def test_what_the_parent_had_queued_is_not_the_childs() -> None:
    events = EventProducer(NOWHERE, {"log_level": "0"})
    click_often(events, 3)
    # A child that sends nothing has nothing to deliver or to lose.
    assert in_child(lambda: events.close(5)) == 0
    with pytest.raises(DeliveryError) as error:
        events.close(0)
    assert len(error.value.undelivered) == 3


def send_in_pool(user: str) -> int:
    POOLED[0].click(user_id=user, item_id="1")
    POOLED[0].flush(10)
    return os.getpid()


POOLED: list[EventProducer] = []


def test_a_pool_of_forked_processes_shares_what_the_app_made() -> None:
    POOLED.append(EventProducer(NOWHERE, BROKER))
    POOLED[0].click(user_id="parent", item_id="1")
    with multiprocessing.get_context("fork").Pool(3) as pool:
        workers = set(pool.map(send_in_pool, [f"u{n}" for n in range(12)], chunksize=1))
    assert os.getpid() not in workers
    POOLED[0].flush(10)
    POOLED.pop().close(5)


def test_a_child_that_exits_as_python_does_does_not_hang() -> None:
    code = """
import os, sys
from headwater_client import EventProducer, KafkaSettings
events = EventProducer(KafkaSettings("127.0.0.1:1"), {"log_level": "0"})
events.click(user_id="ann", item_id="1")
if os.fork() == 0:
    sys.exit(0)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_threads_of_a_child_share_one_new_connection() -> None:
    events = EventProducer(NOWHERE, BROKER)
    events.click(user_id="ann", item_id="1")

    def send() -> None:
        handles = set()

        def click() -> None:
            events.click(user_id="bob", item_id="1")
            handles.add(id(events._handle))

        threads = [threading.Thread(target=click) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events.flush(10)
        assert len(handles) == 1

    assert in_child(send) == 0
    events.close(5)


def test_a_consumer_made_before_a_fork_says_so() -> None:
    consumer = RecommendationConsumer(NOWHERE, group="app", options={"log_level": "0"})

    def receive() -> None:
        try:
            with pytest.raises(ForkedError, match=rf"process {os.getppid()}, before a fork"):
                consumer.receive(0.1)
        finally:
            consumer.close()

    assert in_child(receive) == 0
    assert consumer.receive(0.1) is None
    consumer.close()
