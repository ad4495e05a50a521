"""A worker's routes on a real topic: what others write there, and addresses that do not answer."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from headwater_client import SettingsError
from headwater_client.contract import PlacementRules, SegmentRules
from headwater_client.events import encode
from headwater_client.topics import PLACEMENTS, ROLLOUTS

from deploy.settings import Settings
from features.kafka import client_config, ensure_topics, read_to_end, topic_consumer, write_message
from features.placement_topic import (
    OvertakenError,
    PlacementReader,
    read_placements,
    sign_placements,
    write_placement,
    write_segment,
)
from features.rollout_messages import (
    Rollout,
    RolloutLease,
    RolloutMessage,
    RolloutPhase,
    RoutedVersion,
    lease_key,
)
from features.rollouts import write_rollout_message
from features.schema import FILE_NAME, Vocabulary, read_version
from features.settings import BrokerSettings
from stream.placement_follower import PlacementFollower
from stream.rollout_follower import RolloutFollower
from stream.routing import BackgroundReads, Routes

pytestmark = pytest.mark.integration
PATIENCE_S = 20.0
Versions = dict[str, tuple[int, float, str]]


class Topic:
    """What is written of one model: by who has the key, and by who has not."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.kafka = settings.kafka.model_copy(
            update={
                "signing_key": BrokerSettings.model_validate({"signing_key": "k" * 32}).signing_key
            }
        )
        self.model = f"m-{uuid4().hex}"
        self.open = settings.kafka
        self._folder = folder
        self._revision = 0

    def address(self, version: int) -> str:
        """A version's folder, with its vocabulary."""
        folder = self._folder / str(version)
        folder.mkdir(exist_ok=True)
        Vocabulary(["a"]).write(str(folder / FILE_NAME))
        return folder.as_uri()

    def rollout(self, **versions: tuple[int, float, str]) -> Rollout:
        """A rollout with versions, shares and addresses by variant."""
        self._revision += 1
        routed = [
            RoutedVersion(version=number, variant=variant, share=share, address=address)
            for variant, (number, share, address) in versions.items()
        ]
        phase = RolloutPhase.STABLE if len(routed) == 1 else RolloutPhase.RUNNING
        return Rollout(
            model=self.model,
            versions=routed,
            phase=phase,
            time=int(time.time() * 1000),
            rollout_id="" if len(routed) == 1 else "r",
            revision=self._revision,
        )

    def write(self, message: RolloutMessage, key: str = "") -> None:
        write_rollout_message(self.kafka, key or self.model, message, "a test")

    def forge(self, value: bytes, key: str = "", topic: str = ROLLOUTS) -> None:
        """Without the key."""
        producer = Producer(client_config(self.open))
        producer.produce(topic, value, key or self.model)
        assert producer.flush(10) == 0


@pytest.fixture
def topic(servers: Settings, tmp_path: Path) -> Topic:
    ensure_topics(servers.kafka)
    return Topic(servers, tmp_path)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/7"


async def following(
    topic: Topic, act: Callable[[Routes], None], allowed: tuple[str, ...] = ()
) -> None:
    """Act on a worker's routes, in another thread, while they are kept up to date."""
    read = partial(read_version, contract=None, allowed=allowed)
    routes = Routes(topic.model, load=BackgroundReads(read))
    follower = RolloutFollower(topic.kafka, routes, lease_s=60)
    await follower.start()
    run = asyncio.create_task(follower.run())
    try:
        await asyncio.to_thread(act, routes)
        assert not run.done()
    finally:
        run.cancel()
        await asyncio.wait([run])


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_worker_follows_what_is_signed_and_newest(topic: Topic) -> None:
    old, newest, forged = (
        topic.rollout(stable=(number, 1.0, topic.address(number))) for number in (1, 2, 666)
    )
    # One that was signed comes again, behind a newer one.
    for each in (old, newest, old):
        topic.write(each)
    for value in (encode(forged), encode(old), b'{"a":' * 5000, b"[]"):
        topic.forge(value)

    def act(routes: Routes) -> None:
        assert routes.loaded == {"stable": 2}
        for again in (encode(forged), b"[" * 100_000):
            topic.forge(again)
        newer = topic.rollout(stable=(3, 1.0, topic.address(3)))
        topic.write(newer)
        wait_for(lambda: routes.loaded == {"stable": 3})

    asyncio.run(following(topic, act))


@pytest.mark.leaves_behind("fsspecIO", "fsspec keeps the thread of its loop")
def test_a_rollback_is_seen_whatever_an_address_does(topic: Topic, silent: str) -> None:
    """The canary's address never answers, others are of file systems that are not installed."""
    stable = topic.address(1)
    topic.write(topic.rollout(stable=(1, 1.0, stable)))

    def act(routes: Routes) -> None:
        assert routes.loaded == {"stable": 1}
        addresses = (
            silent,
            "s3://bucket/7",
            "gs://b/7",
            "smb://h/s/7",
            "hf://a/b",
            "reference://x",
        )
        for address in addresses:
            canary = (2, 0.5, address)
            topic.write(topic.rollout(stable=(1, 0.5, stable), canary=canary))
            wait_for(lambda address=address: bool(routes.versions_to_keep[-1].address == address))
            assert routes.loaded == {"stable": 1}
            wait_for(lambda: "canary" in routes.problems)
        topic.write(topic.rollout(stable=(3, 1.0, topic.address(3))))
        wait_for(lambda: routes.loaded == {"stable": 3})
        assert not routes.problems

    asyncio.run(following(topic, act, (silent, "s3://bucket", str(Path(stable[7:]).parent))))


def test_a_rollout_of_before_is_shown_once_a_controller_watches_it(topic: Topic) -> None:
    stable = topic.address(1)
    shown = topic.rollout(stable=(1, 0.5, stable), canary=(2, 0.5, topic.address(2)))
    shown = Rollout(
        model=shown.model,
        versions=shown.versions,
        phase=shown.phase,
        time=shown.time - 61_000,
        rollout_id="r",
        revision=shown.revision,
    )
    topic.write(shown)

    def act(routes: Routes) -> None:
        assert routes.lease_expired
        assert routes.loaded == {"stable": 1}
        for name, sequence, is_shown in (("other", 1, False), ("r", 2, True)):
            lease = RolloutLease(
                model=topic.model, rollout_id=name, sequence=sequence, time=shown.time
            )
            topic.write(lease, lease_key(topic.model))
            if is_shown:
                wait_for(lambda: routes.loaded == {"stable": 1, "canary": 2})
        assert not routes.lease_expired

    asyncio.run(following(topic, act))


def test_where_a_key_is_set_only_signed_placements_count(topic: Topic) -> None:
    home, vip = f"home-{uuid4().hex[:8]}", f"vip-{uuid4().hex[:8]}"
    write_placement(topic.open, home, PlacementRules(limit=3))
    write_segment(topic.open, vip, SegmentRules(filter="person.vip"))
    assert home in read_placements(topic.open).known
    # Once a key is set what stands there counts no more, until somebody says that it is right.
    assert home not in read_placements(topic.kafka).known
    assert {home, f"segment/{vip}"} <= set(sign_placements(topic.kafka))
    assert sign_placements(topic.kafka) == []
    signed = read_placements(topic.kafka)
    assert (signed.known[home].placement.limit, vip in signed.segments) == (3, True)

    async def follow() -> None:
        follower = PlacementFollower(topic.kafka)
        await follower.start()
        running = asyncio.create_task(follower.run())
        try:
            async with asyncio.timeout(PATIENCE_S):
                topic.forge(encode(PlacementRules(limit=1)), home, PLACEMENTS)
                changed = write_placement(topic.kafka, home, PlacementRules(limit=5))
                await follower.reach(changed)
            assert follower.table.known[home].placement.limit == 5
            assert follower.table.known[home].revision == changed
        finally:
            running.cancel()
            await asyncio.wait([running])
            await follower.close()

    asyncio.run(follow())
    # Who has no key would write what counts for nobody, and is told.
    with pytest.raises(SettingsError, match=r"kafka\.signing_key: is not set"):
        write_placement(topic.open, home, PlacementRules(limit=9))


def test_of_two_who_change_a_placement_at_once_one_is_told(topic: Topic) -> None:
    name, value = f"cart-{uuid4().hex[:8]}", encode(PlacementRules(limit=4))
    reader = PlacementReader(topic.kafka)
    # Whoever looked before the other has written writes what follows nothing.
    headers = reader.make_headers(name, value)
    revision = write_placement(topic.kafka, name, PlacementRules(limit=3))
    late = write_message(topic.kafka, PLACEMENTS, name, value, headers)
    with closing(topic_consumer(topic.kafka, PLACEMENTS)) as consumer:
        for message in read_to_end(consumer, PLACEMENTS):
            reader.take(message)
    with pytest.raises(OvertakenError, match=f"by revision {revision}: look at it"):
        reader.check_written(name, late)
    assert read_placements(topic.kafka).known[name].placement.limit == 3
