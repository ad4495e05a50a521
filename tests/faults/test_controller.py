"""Controllers killed and stopped at any moment: one leads, counters stay exact, decisions hold."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition
from headwater_client.errors import ServerError
from headwater_client.event_types import CLICK
from headwater_client.events import Click, Recommendation
from headwater_client.topics import RECOMMENDATIONS, SERVED

from deploy import local
from deploy.jobs.train import model_registry
from deploy.rollout import CommandRejectedError, RolloutSettings, is_reproducible
from deploy.rollout.feedback.consumer import decode_feedback, encode_feedback
from deploy.rollout.feedback.counters import FeedbackRow
from deploy.rollout.feedback.ledger import FeedbackMessage, FeedbackScope, Ledger
from deploy.settings import Settings
from features.kafka import client_config, ensure_sources
from features.rollout_messages import RolloutAction, RolloutStep
from features.schema import FeatureSchema
from features.store import FEEDBACK, RowRead
from features.store.redis import RedisRowStore
from features.topics import Hash
from tests.harness.models import SETTINGS, untrained
from tests.harness.rollouts import People, controlling, read_rollouts, send_action

pytestmark = pytest.mark.faults
FAULTS, LONGEST_S, STOPPED_S = 4, 7.0, 9.0
PATIENCE_S = 60.0
RULES: dict[str, object] = {
    "steps": "[0.1, 0.15, 0.2, 0.3, 0.5]",
    "shadow_fraction": 0.5,
    "min_step_s": 3,
    "min_shown": 50,
    "min_people": 20,
    "min_buckets": 10,
    "margin": 0.5,
    "max_harm": 0.9,
}
# In the order in which messages of one millisecond go.
KINDS = {RECOMMENDATIONS: Recommendation, SERVED: Recommendation, CLICK.topic: Click}


@pytest.fixture
def servers(own: Settings) -> Settings:
    """Servers with two versions that can be tried out."""
    settings = local.up(own)
    ensure_sources(settings.kafka)
    schema = FeatureSchema(settings.features)
    with closing(model_registry(settings, SETTINGS)) as registry:
        registry.publish(untrained(schema, 1))
        registry.write_version(untrained(schema, 2))
    return settings


@pytest.mark.timeout(600)
def test_controllers_killed_and_stopped_lose_and_double_nothing(
    servers: Settings, tmp_path: Path
) -> None:
    chance = random.Random(5)
    people = People(servers, {"canary": 0.3, "baseline": 0.3, "stable": 0.3, "shadow": 0.3})
    with ExitStack() as stack:

        def controller() -> subprocess.Popen[bytes]:
            return stack.enter_context(controlling(servers, tmp_path / "log", **RULES))

        controllers = [controller(), controller()]
        begin(servers)
        for fault in range(FAULTS):
            keep_busy(servers, people, chance.uniform(0.5, LONGEST_S))
            at = chance.randrange(2)
            if fault == 2:
                stopped_and_continued(controllers[at])
            else:
                controllers[at].kill()
                controllers[at] = controller()
        before = len(read_rollouts(servers).steps)
        deadline = time.monotonic() + PATIENCE_S
        while len(read_rollouts(servers).steps) < before + 2:
            assert time.monotonic() < deadline, "nobody leads any more"
            keep_busy(servers, people, 0.5)
        # Time for what was shown last to be counted.
        time.sleep(3)
        assert all(one.poll() is None for one in controllers)
    check_history(read_rollouts(servers).steps)
    check_counters(servers)


def stopped_and_continued(controller: subprocess.Popen[bytes]) -> None:
    """Taken for dead, and then back."""
    controller.send_signal(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    controller.send_signal(signal.SIGCONT)


def keep_busy(settings: Settings, people: People, seconds: float) -> None:
    """People act; where a rollout has ended, the other version is tried out."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        current = read_rollouts(settings).current
        assert current
        if current.phase in ("promoted", "rolled_back", "stable"):
            begin(settings)
        people.act(200)


def begin(settings: Settings) -> None:
    """Try out the version that is not live; a controller that dies meanwhile is waited for."""
    deadline = time.monotonic() + 2 * PATIENCE_S
    while True:
        current = read_rollouts(settings).current
        assert current
        stable = current.version_for("stable")
        assert stable
        if current.phase in ("shadow", "running", "holding"):
            return
        try:
            send_action(settings, RolloutAction.START, 3 - stable.version)
        except (ServerError, CommandRejectedError):
            assert time.monotonic() < deadline, "no controller answers"


def check_history(steps: list[RolloutStep]) -> None:
    """Each step once, each decision as its figures say, none after the end."""
    names = list(dict.fromkeys(step.rollout.rollout_id for step in steps))
    assert names
    for name in names:
        mine = [step for step in steps if step.rollout.rollout_id == name]
        assert [step.rollout.sequence for step in mine] == list(range(len(mine)))
        assert all(is_reproducible(step) for step in mine)
        assert all(step.rollout.phase not in ("promoted", "rolled_back") for step in mine[:-1])
    decisions = [step for step in steps if "figures" in step.inputs]
    assert len(decisions) >= 3, [step.reason for step in steps]


def check_counters(settings: Settings) -> None:
    """What the store holds is what the log says, up to where it was read."""
    sources = ensure_sources(settings.kafka)
    logs = {n: list(in_order(settings, n, sources)) for n in range(settings.kafka.partitions)}
    names = {step.rollout.rollout_id for step in read_rollouts(settings).steps}
    requests = 0
    for (name, number), row in asyncio.run(read_feedback(settings, names)).items():
        rules = RolloutSettings()
        window_ms = int(1000 * rules.credit_window_s)
        scope = FeedbackScope(name, 0, window_ms, rules.purchase_reward)
        again = Ledger(scope, FeedbackRow({}, {}))
        for read in logs[number]:
            if read.offset <= row.offsets.get(read.source, -1):
                again.apply(read)
        ours, theirs = encode_feedback(again.row), encode_feedback(row)
        for column in ("variants", "shown", "reward", "counts", "latencies", "scores", "items"):
            assert ours[column] == theirs[column], (name, number, column)
        requests += sum(one.counts["requests"] for one in row.counters.values())
    assert requests > 1000


async def read_feedback(settings: Settings, names: set[str]) -> dict[tuple[str, int], FeedbackRow]:
    keys = [(name, number) for name in names for number in range(settings.kafka.partitions)]
    store = RedisRowStore(settings.store)
    try:
        rows = await store.read(
            [RowRead(FEEDBACK, f"{name}/{number}", FEEDBACK.columns) for name, number in keys]
        )
    finally:
        await store.close()
    return dict(zip(keys, map(decode_feedback, rows), strict=True))


def in_order(
    settings: Settings, number: int, sources: dict[tuple[str, int], Hash]
) -> Iterator[FeedbackMessage]:
    """A partition's messages, in the broker's order of time."""
    reads = []
    for rank, (topic, kind) in enumerate(KINDS.items()):
        for offset, time_ms, value in messages(settings, topic, number):
            event = msgspec.json.decode(value, type=kind)
            reads.append((time_ms, rank, offset, topic, event))
    for time_ms, _, offset, topic, event in sorted(reads, key=lambda each: each[:3]):
        yield FeedbackMessage(sources[topic, number], offset, time_ms, event)


def messages(settings: Settings, topic: str, number: int) -> Iterator[tuple[int, int, bytes]]:
    config = {"group.id": "check", "enable.partition.eof": "true", "enable.auto.commit": "false"}
    with closing(Consumer(client_config(settings.kafka) | config)) as consumer:
        consumer.assign([TopicPartition(topic, number, 0)])
        while (message := consumer.poll(10)) is not None:
            if (error := message.error()) is not None:
                assert error.code() == KafkaError._PARTITION_EOF
                return
            yield message.offset() or 0, message.timestamp()[1], message.value() or b""
    raise AssertionError(f"{topic} {number}: no answer")
