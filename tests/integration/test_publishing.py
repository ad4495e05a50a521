"""What a trainer that died left is finished or removed, on a real Triton and Kafka."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import onnx
import pytest
from headwater_client.errors import DataError, ServerError, SettingsError
from headwater_client.topics import ROLLOUTS
from prometheus_client import REGISTRY

from deploy import local
from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features.inputs import MODEL_NAME, model_inputs, model_outputs
from features.kafka import ensure_topics
from features.model_server import (
    LONGEST_REST_S,
    ModelServer,
    Reconciler,
    ServerUnavailableError,
    keep_loaded,
    load_beside,
    missing_versions,
    on_each,
)
from features.rollout_messages import Rollout, RolloutPhase, RoutedVersion
from features.rollouts import write_rollout_message
from features.schema import FeatureSchema
from stream.inference import InferenceClient, InferenceRequest
from tests.harness.models import ITEMS, SETTINGS, untrained
from tests.harness.oracle import read_topic
from tests.harness.waiting import wait_until
from trainer.export import sample_inputs
from trainer.export.onnx import write_probe
from trainer.registry import Lineage, ModelVersion, RolloutRejectedError
from trainer.registry.loaded import check_answer
from trainer.registry.repository import LOCK
from trainer.settings import TrainerSettings

pytestmark = pytest.mark.integration
ONCE = SETTINGS.model_copy(update={"publish_retry_s": 0.0})


class Trainer:
    """Publishes models that have learned nothing to the servers of the session."""

    def __init__(self, settings: Settings) -> None:
        self.schema = FeatureSchema(settings.features)
        self.registry = model_registry(settings, ONCE)
        [self.server] = self.registry.servers
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


def test_a_live_version_that_triton_forgot_is_loaded(trainer: Trainer, servers: Settings) -> None:
    live = trainer.publish()
    with trainer.server.connect() as triton:
        triton.load("", [])
        assert triton.list_ready(trainer.numbers()) == []
    *_, told = local.status(servers)
    assert told.detail == f"does not serve version {live.number} (routed: {live.number})"
    assert trainer.recover() == live
    with trainer.server.connect() as triton:
        check_answer(triton, live.number, live.folder / "model.onnx", ITEMS + 2, trainer.schema)


def test_a_version_that_triton_refuses_stays_aside_and_is_published_later(trainer: Trainer) -> None:
    live, refused = trainer.publish(), trainer.write()
    sound = (refused.folder / "model.onnx").read_bytes()
    (refused.folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ServerError, match="Triton at ") as caught:
        trainer.registry.go_live(refused)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"once that is mended: headwater publish {refused.number}")
    assert trainer.numbers()[-1] == live.number
    assert trainer.up([live.number]) == [live.number]
    assert trainer.registry.live_version() == live.number
    assert trainer.registry.repository.list_kept() == [refused.number]
    with pytest.raises(DataError, match=r"version 999: not kept aside .* there are \d+$"):
        trainer.registry.publish_kept(999)
    with pytest.raises(DataError, match=r"model\.onnx: damaged"):
        trainer.registry.publish_kept(None)
    # Nor is its number given to another one.
    newer = trainer.publish()
    assert newer.number == refused.number + 1
    aside = trainer.registry.repository.staging / f"kept-{refused.number}"
    (aside / "model.onnx").write_bytes(sound)
    assert trainer.registry.publish_kept(refused.number) == (refused, True)
    assert trainer.registry.live_version() == refused.number
    assert trainer.up([refused.number]) == [refused.number]
    assert trainer.nothing_is_left()


def test_a_version_on_trial_is_not_removed_though_its_start_is_refused_when_sent_again(
    trainer: Trainer, servers: Settings
) -> None:
    live, tried = trainer.publish(), trainer.write()
    attempts = []

    def release(version: ModelVersion) -> bool:
        """The controller takes the first START; no answer comes, and so it is sent again."""
        attempts.append(version)
        if len(attempts) == 1:
            announce(servers, live, canary=version)
            raise ServerError("start: no controller has answered in 30 s")
        raise RolloutRejectedError("start: rollout 8-176 of version 8 is shadow")

    patient = SETTINGS.model_copy(update={"publish_retry_s": 20.0})
    with closing(model_registry(servers, patient)) as registry:
        assert registry.go_live(tried, release) is False
    assert len(attempts) == 2
    assert tried.folder.is_dir()
    assert trainer.up([live.number, tried.number]) == [live.number, tried.number]
    assert trainer.nothing_is_left()
    trainer.registry.announce(live)


def test_numbers_go_on_from_what_was_announced_though_the_repository_is_new(
    trainer: Trainer, servers: Settings, tmp_path: Path
) -> None:
    live = trainer.publish()
    elsewhere = servers.model_copy(update={"model_repository": tmp_path / "new"})
    with closing(model_registry(elsewhere, ONCE)) as registry:
        registry.rollouts.refresh()
        version = registry.write_version(untrained(trainer.schema, 5))
    assert version.number == live.number + 1


def announce(settings: Settings, stable: ModelVersion, canary: ModelVersion) -> None:
    """As a controller does when a trial begins to have a share of people."""
    versions = [
        RoutedVersion(version=one.number, variant=name, share=share, address=one.address)
        for one, name, share in ((stable, "stable", 0.9), (canary, "canary", 0.1))
    ]
    rollout = Rollout(
        model=MODEL_NAME,
        versions=versions,
        phase=RolloutPhase.RUNNING,
        time=int(time.time() * 1000),
        rollout_id=f"{canary.number}-1",
    )
    write_rollout_message(settings.kafka, MODEL_NAME, rollout, "a trial")


def routed_versions(*versions: ModelVersion) -> list[RoutedVersion]:
    """The first is the stable one."""
    return [
        RoutedVersion(
            version=one.number, variant="canary" if at else "stable", share=0.5, address=one.address
        )
        for at, one in enumerate(versions)
    ]


def forget(trainer: Trainer) -> None:
    """Triton is as after a restart."""
    with trainer.server.connect() as triton:
        triton.load("", [])
        assert triton.list_loaded() == []


def test_whatever_takes_traffic_is_loaded_again(trainer: Trainer) -> None:
    older, newer = trainer.publish(), trainer.publish()
    forget(trainer)
    wanted = routed_versions(older, newer)
    assert [one.version for one in missing_versions(trainer.server, wanted)] == [
        older.number,
        newer.number,
    ]
    found = Reconciler(trainer.server, lambda: wanted)
    assert found.reconcile() == []
    assert trainer.up([older.number, newer.number]) == [older.number, newer.number]
    assert found.reconcile() == []


def test_one_that_cannot_be_loaded_does_not_keep_the_others_away(trainer: Trainer) -> None:
    live, broken = trainer.publish(), trainer.write()
    (broken.folder / "model.onnx").write_bytes(b"no graph")
    forget(trainer)
    now = [0.0]
    found = Reconciler(trainer.server, lambda: routed_versions(live, broken), clock=lambda: now[0])
    assert found.reconcile() == [broken.number]
    assert trainer.up([live.number]) == [live.number]
    missing = REGISTRY.get_sample_value(
        "headwater_routed_versions_missing", {"url": trainer.server.url}
    )
    assert missing == 1
    # It is tried again after a rest, and what is up is let be meanwhile.
    shutil.copy(live.folder / "model.onnx", broken.folder / "model.onnx")
    assert found.reconcile() == [broken.number]
    now[0] += LONGEST_REST_S
    assert found.reconcile() == []
    trainer.registry.repository.remove(broken)


def test_nothing_is_read_where_versions_may_not_lie(trainer: Trainer, tmp_path: Path) -> None:
    live = trainer.publish()
    forget(trainer)
    for elsewhere in ("http://127.0.0.1:1/temporal_llm/7", f"{live.address}/../7", "s3://a/b"):
        [wanted] = routed_versions(live)
        wanted = msgspec.structs.replace(wanted, address=elsewhere)
        with pytest.raises(SettingsError, match="address "):
            load_beside(trainer.server, wanted)
    with pytest.raises(SettingsError, match="is not below"):
        load_beside(trainer.server, *routed_versions(live), (str(tmp_path),))
    assert trainer.up([live.number]) == []
    assert (
        Reconciler(trainer.server, lambda: routed_versions(live), [live.address]).reconcile() == []
    )


def test_several_that_load_at_once_do_no_harm(trainer: Trainer) -> None:
    versions = [trainer.publish() for _ in range(3)]
    forget(trainer)
    wanted = [routed_versions(one) for one in versions]
    with ExitStack() as stack:
        for each in wanted:
            stack.enter_context(keep_loaded([trainer.server], lambda each=each: each))
        numbers = [version.number for version in versions]
        wait_until(lambda: trainer.up(numbers) == numbers, 60)


def test_routing_that_cannot_be_read_is_told_and_what_was_read_counts(trainer: Trainer) -> None:
    live, said = trainer.publish(), iter([None])

    def read() -> list[RoutedVersion]:
        if next(said, "gone") == "gone":
            raise ServerError("Kafka is away")
        return routed_versions(live)

    found = Reconciler(trainer.server, read)
    assert found.reconcile() == []
    forget(trainer)
    assert found.reconcile() == []
    assert trainer.up([live.number]) == [live.number]


def test_versions_go_to_each_triton_and_one_that_is_away_is_left_out(
    trainer: Trainer, servers: Settings, own: Settings
) -> None:
    key = Path("triton") / "control_key"
    (own.local.state_dir / key).parent.mkdir(parents=True)
    shutil.copy(servers.local.state_dir / key, own.local.state_dir / key)
    second = own.model_copy(update={"model_repository": servers.model_repository})
    other = local.up(second, only=["triton"]).triton.url
    triton = servers.triton.model_copy(update={"url": f"127.0.0.1:1,{servers.triton.url},{other}"})
    settings = servers.model_copy(update={"triton": triton})
    with closing(model_registry(settings, ONCE)) as registry:
        version = registry.publish(untrained(trainer.schema, 77))
        assert registry.loaded.is_ready(version)
        loaded = on_each(registry.servers[1:], lambda one: one.is_ready(version.number))
        assert loaded == [True, True]
        with pytest.raises(ServerUnavailableError):
            on_each(registry.servers[:1], lambda one: one.is_live())
    feeds = sample_inputs(ITEMS + 2, trainer.schema, 3)

    async def ask() -> None:
        client = InferenceClient(
            triton, model_inputs(trainer.schema), model_outputs(trainer.schema)
        )
        try:
            for _ in range(6):
                await client.infer(InferenceRequest(version.number, feeds))
        finally:
            await client.close()

    asyncio.run(ask())


def test_before_a_training_each_triton_loads_a_probe(trainer: Trainer, servers: Settings) -> None:
    trainer.registry.probe()
    names = [path.name for path in servers.model_repository.iterdir()]
    assert not any(name.startswith("headwater_probe") for name in names)
    assert trainer.nothing_is_left()


def test_a_triton_that_sees_another_folder_is_found_before_a_training(
    trainer: Trainer, servers: Settings, tmp_path: Path
) -> None:
    elsewhere = servers.model_copy(update={"model_repository": tmp_path / "elsewhere"})
    with (
        closing(model_registry(elsewhere, ONCE)) as registry,
        pytest.raises(ServerError, match=r"would refuse what is trained.* over .*elsewhere"),
    ):
        registry.probe()


def test_a_triton_older_than_the_exporter_is_found_before_a_training(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def newer(folder: Path) -> None:
        write_probe(folder)
        graph = onnx.load(folder / "1" / "model.onnx")
        graph.ir_version = 99
        (folder / "1" / "model.onnx").write_bytes(graph.SerializeToString())

    monkeypatch.setattr("trainer.registry.registry.write_probe", newer)
    with pytest.raises(ServerError, match=r"IR version.*would refuse what is trained") as caught:
        trainer.registry.probe()
    assert "\n" not in str(caught.value)


def test_without_the_key_triton_is_asked_but_not_commanded(
    trainer: Trainer, servers: Settings
) -> None:
    live = trainer.publish()
    stranger = ModelServer(servers.triton.url or "")
    with stranger.connect() as triton:
        assert triton.is_ready(live.number)
        assert triton.ask(live.number, sample_inputs(ITEMS + 2, trainer.schema, 1), trainer.schema)
    for command in (
        lambda triton: triton.load_model("headwater_check"),
        lambda triton: triton.unload_model(MODEL_NAME),
        lambda triton: triton.list_loaded(),
    ):
        with pytest.raises(ServerError, match=r"restricted.*set triton\.control_key"):
            on_each([stranger], command)
    assert trainer.up([live.number]) == [live.number]


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
