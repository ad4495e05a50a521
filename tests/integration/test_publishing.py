"""What a trainer that died left is finished or removed, on a real Triton and Kafka."""

from __future__ import annotations

from contextlib import closing

import pytest
from headwater_client.errors import ServerError
from headwater_client.topics import ROLLOUTS

from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from tests.harness.models import ITEMS, SETTINGS, untrained
from tests.harness.oracle import read_topic
from trainer.registry import Lineage, ModelVersion, ServerUnavailableError
from trainer.registry.repository import LOCK
from trainer.settings import TrainerSettings

pytestmark = pytest.mark.integration
ONCE = SETTINGS.model_copy(update={"publish_retry_s": 0.0})


class Trainer:
    """Publishes models that have learned nothing to the servers of the session."""

    def __init__(self, settings: Settings) -> None:
        self.schema = FeatureSchema(settings.features)
        self.registry = model_registry(settings, ONCE)
        self.server = self.registry.server
        self._settings = settings
        self._seed = 100
        ensure_topics(settings.kafka)

    def write(self) -> ModelVersion:
        """A version that nothing was done with yet: so a killed trainer may leave it."""
        self._seed += 1
        return self.registry.write_version(untrained(self.schema, self._seed))

    def publish(
        self, settings: TrainerSettings = ONCE, lineage: Lineage | None = None
    ) -> ModelVersion:
        self._seed += 1
        trained, origin = untrained(self.schema, self._seed), lineage or Lineage()
        with closing(model_registry(self._settings, settings)) as registry:
            with registry.stage(trained, origin) as staged:
                version = staged.commit()
            registry.go_live(version)
        return version

    def recover(self) -> ModelVersion | None:
        return self.registry.recover()

    def numbers(self) -> list[int]:
        return self.registry.repository.version_numbers()

    def up(self, numbers: list[int]) -> list[int]:
        with self.server.connect() as triton:
            return triton.list_ready(numbers)

    def nothing_is_left(self) -> bool:
        return [path.name for path in self.registry.repository.staging.iterdir()] == [LOCK]


@pytest.fixture(scope="module")
def trainer(servers: Settings) -> Trainer:
    return Trainer(servers)


def test_a_version_that_was_left_whole_goes_live(trainer: Trainer) -> None:
    version = trainer.write()
    assert trainer.registry.live_version() != version.number
    assert trainer.recover() == version
    assert trainer.registry.live_version() == version.number
    assert trainer.up([version.number]) == [version.number]
    assert trainer.nothing_is_left()


def test_of_two_that_were_left_the_newer_goes_live(trainer: Trainer) -> None:
    older, newer = trainer.write(), trainer.write()
    assert trainer.recover() == newer
    assert older.number not in trainer.numbers()


def test_a_damaged_one_is_removed_and_the_live_one_goes_on(trainer: Trainer) -> None:
    live, damaged = trainer.publish(), trainer.write()
    (damaged.folder / "model.onnx").write_bytes(b"half a graph")
    assert trainer.recover() == live
    assert trainer.numbers()[-1] == live.number
    assert trainer.nothing_is_left()


def test_a_return_to_an_older_version_is_not_undone(trainer: Trainer) -> None:
    live, left = trainer.publish(), trainer.write()
    trainer.registry.announce(live)
    assert trainer.recover() == live
    assert left.number not in trainer.numbers()


def test_what_was_announced_is_not_announced_again(trainer: Trainer, servers: Settings) -> None:
    live = trainer.publish()
    (trainer.registry.repository.staging / f"unannounced-{live.number}").touch()
    before = read_topic(servers, ROLLOUTS, 1)
    assert trainer.recover() == live
    assert read_topic(servers, ROLLOUTS, 1) == before
    assert trainer.nothing_is_left()


def test_a_live_version_that_triton_forgot_is_loaded(trainer: Trainer) -> None:
    live = trainer.publish()
    with trainer.server.connect() as triton:
        triton.load("", [])
        assert triton.list_ready(trainer.numbers()) == []
    assert trainer.recover() == live
    with trainer.server.connect() as triton:
        triton.check_answer(live.number, live.folder / "model.onnx", ITEMS + 2, trainer.schema)


def test_a_version_that_triton_refuses_is_removed(trainer: Trainer) -> None:
    live, refused = trainer.publish(), trainer.write()
    (refused.folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ServerError, match="Triton at ") as caught:
        trainer.registry.go_live(refused)
    assert "\n" not in str(caught.value)
    assert trainer.numbers()[-1] == live.number
    assert trainer.up([live.number]) == [live.number]
    assert trainer.registry.live_version() == live.number
    assert trainer.nothing_is_left()


def test_old_versions_are_removed_but_for_what_the_live_one_comes_from(trainer: Trainer) -> None:
    few = ONCE.model_copy(update={"keep_versions": 2})
    first = trainer.publish(few)
    second, third = trainer.publish(few), trainer.publish(few, Lineage(parent=first.number))
    assert trainer.numbers() == [first.number, second.number, third.number]
    assert trainer.up(trainer.numbers()) == [second.number, third.number]
    fourth = trainer.publish(few)
    assert trainer.numbers() == trainer.up(trainer.numbers()) == [third.number, fourth.number]


def test_triton_away_is_one_line_and_the_next_run_goes_on(
    trainer: Trainer, servers: Settings
) -> None:
    live = trainer.registry.live_version()
    triton = servers.triton.model_copy(update={"url": "127.0.0.1:1"})
    nowhere = model_registry(servers.model_copy(update={"triton": triton}), ONCE)
    with pytest.raises(ServerUnavailableError, match=r"Triton at 127\.0\.0\.1:1: ") as caught:
        nowhere.publish(untrained(trainer.schema, 9))
    assert "\n" not in str(caught.value)
    assert trainer.registry.live_version() == live
    left = trainer.numbers()[-1]
    assert trainer.recover()
    assert trainer.registry.live_version() == left
