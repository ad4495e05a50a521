"""Windows become versions on a real Triton and Kafka; what is wrong with one makes no version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from headwater_client.errors import DataError, SettingsError
from headwater_client.events import Item
from prometheus_client import REGISTRY

from deploy import local
from deploy.jobs.optimize import serve_window_variant
from deploy.jobs.train import model_registry
from deploy.optimize import OptimizeSettings, ServedPrecision
from deploy.optimize.variants import SERVED_FILE
from deploy.services.trainer import log_step, release
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.rollout_messages import RolloutAction
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from stream.inference import model_servers
from tests.harness.rollouts import controlling, read_rollouts, rules, send_action
from tests.harness.walks import ITEMS, LENGTH, Events, catalogue, swap_items, walks
from tests.unit.trainer.training.test_fine_tune import SETTINGS, TUNING
from trainer import loop as slow_loop
from trainer.datasets import Log
from trainer.gate import EVALUATION, VERDICTS, Verdict
from trainer.loop import OnGatePassed, Serving, SlowLoop, SlowLoopSettings
from trainer.network import TrainedModel
from trainer.registry import EXACT, GRAPH, ModelRegistry, ReleaseVersion, checkpoint
from trainer.settings import FineTuneSettings, GateSettings, Release
from trainer.training import TrainingSetup, fine_tune, train_first_model
from trainer.windows.settings import WindowSettings
from trainer.windows.store import MANIFESTS, QuarantinedWindows, WindowStore, seal
from trainer.windows.writer import WindowLoader

pytestmark = pytest.mark.integration

# People come one after another: each stretch of time has some of its own.
BEFORE, WINDOW, NEXT = walks(range(50), 1), walks(range(50, 90), 1), walks(range(90, 130), 1)
FILMS = catalogue([f"i{at}" for at in range(ITEMS)])
WINDOWS = WindowSettings(duration_s=400 * 86_400, allowed_lateness_s=0)
TRAINER = SETTINGS.model_copy(update={"language_model": "", "publish_retry_s": 30.0})
LEARNING = TUNING.model_copy(update={"gate_fraction": 0.3})
# Whoever else works on the machine: a test fails by no time.
LIMITS = GateSettings(max_latency_ms=60_000, max_slowdown=1000)


class Stand:
    """A first version that takes traffic, and windows in a folder."""

    def __init__(
        self, settings: Settings, first: TrainedModel, schema: FeatureSchema, folder: Path
    ) -> None:
        self.settings = settings.model_copy(update={"features": schema.settings})
        self.registry = model_registry(self.settings, TRAINER)
        self.repository = self.registry.repository
        self.folder = folder
        self.windows = WindowStore(str(folder))
        self._events: Events = []
        version = self.registry.publish(first)
        self.first = version.number
        self.write(BEFORE)

    def write(self, events: Events) -> list[int]:
        """One more window; its number."""
        self._events = [*self._events, *events]
        loader = WindowLoader("walks", self.windows, WINDOWS)
        return [manifest.number for manifest in loader.write(self._events)]

    def loop(
        self,
        tuning: FineTuneSettings = LEARNING,
        items: list[Item] = FILMS,
        release: ReleaseVersion | None = None,
        on_gate_passed: OnGatePassed | None = None,
    ) -> SlowLoop:
        """A trainer that has just started."""
        found = self.unstarted_loop(tuning, release, on_gate_passed)
        assert not found.start(items)
        return found

    def unstarted_loop(
        self,
        tuning: FineTuneSettings = LEARNING,
        release: ReleaseVersion | None = None,
        on_gate_passed: OnGatePassed | None = None,
    ) -> SlowLoop:
        serving = Serving(model_registry(self.settings, TRAINER), release, on_gate_passed)
        rules = SlowLoopSettings(TRAINER, tuning, LIMITS)
        return SlowLoop(self.windows, serving, rules, text_encoder=None)

    def announce_first(self) -> None:
        """Somebody goes back to the version that was there before all windows."""
        self.registry.announce(self.repository.version(self.first))

    def live(self) -> int:
        """What takes traffic; it is up."""
        live = self.registry.live_version()
        assert live is not None
        with self.registry.servers[0].connect() as triton:
            assert triton.is_ready(live)
        return live - self.first

    def verdict(self) -> Verdict:
        """The newest in the log of all."""
        line = (self.repository.folder / VERDICTS).read_bytes().splitlines()[-1]
        return msgspec.json.decode(line, type=Verdict)


@pytest.fixture(scope="module")
def schema() -> FeatureSchema:
    return FeatureSchema(FeatureSettings(history_length=8))


@pytest.fixture(scope="module")
def first(schema: FeatureSchema) -> TrainedModel:
    return train_first_model(Log(BEFORE, FILMS), schema, TrainingSetup(TRAINER))


@pytest.fixture
def stand(servers: Settings, first: TrainedModel, schema: FeatureSchema, tmp_path: Path) -> Stand:
    ensure_topics(servers.kafka)
    return Stand(servers, first, schema, tmp_path / "windows")


def test_each_window_becomes_the_version_that_takes_traffic(stand: Stand) -> None:
    loop = stand.loop()
    for number, window in ((1, WINDOW), (2, NEXT)):
        new = stand.write(window)
        step = loop.step(new)
        assert step.reason == ""
        assert step.version
        assert stand.live() == number
        assert list(step.seconds) == ["read", "learn", "export", "judge", "keep", "go live"]
        manifest = checkpoint.verify(step.version.folder)
        assert (manifest.parent, manifest.windows) == (stand.first + number - 1, tuple(new))
        kept = (step.version.folder / EVALUATION).read_bytes()
        assert msgspec.json.decode(kept, type=Verdict) == step.verdict == stand.verdict()
        made = REGISTRY.get_sample_value("headwater_learning_steps_total", {"outcome": "version"})
        log_step(step, {})
        told = {
            version: REGISTRY.get_sample_value("headwater_gate_ndcg_at_10", {"version": version})
            for version in ("candidate", "live")
        }
        assert told == {
            "candidate": step.verdict.candidate.ndcg_at_10,
            "live": step.verdict.reference.ndcg_at_10,
        }
        again = REGISTRY.get_sample_value("headwater_learning_steps_total", {"outcome": "version"})
        assert again == (made or 0) + 1


def test_versions_are_served_in_int8_and_learn_on(servers: Settings, stand: Stand) -> None:
    settings = servers.model_copy(
        update={
            "optimize": OptimizeSettings(serve=ServedPrecision.INT8),
            "features": stand.registry.schema.settings,
        }
    )
    loop = stand.loop(on_gate_passed=serve_window_variant(settings))
    for number, window in ((1, WINDOW), (2, NEXT)):
        step = loop.step(stand.write(window))
        assert step.version, step.reason
        assert stand.live() == number
        folder = step.version.folder
        assert {GRAPH, EXACT, SERVED_FILE} <= checkpoint.verify(folder).files.keys()
        form = msgspec.json.decode((folder / SERVED_FILE).read_bytes())
        assert (form["served"], form["refusal"]) == ("int8", None)
        assert form["agreement"]["requests"] > 100
        assert "DynamicQuantizeLinear" in operators(folder / GRAPH)
        assert "DynamicQuantizeLinear" not in operators(folder / EXACT)


def operators(graph: Path) -> set[str]:
    return {node.op_type for node in onnx.load(graph).graph.node}


def test_a_version_is_tried_out_and_windows_wait_for_its_end(
    servers: Settings, stand: Stand, tmp_path: Path
) -> None:
    loop = stand.loop(release=release(canary(servers)))
    with controlling(servers, tmp_path / "log"):
        tried = loop.step(stand.write(WINDOW))
        assert tried.version, tried.reason
        assert (stand.live(), read_rollouts(servers).steps[-1].actor) == (0, "trainer")
        waiting = loop.step(stand.write(NEXT))
        assert waiting.version is None
        assert "has no verdict yet" in waiting.reason
        send_action(servers, RolloutAction.PROMOTE)
        assert stand.live() == 1
        after = loop.step([])
    assert after.version, after.reason
    assert checkpoint.read_manifest(after.version.folder).parent == tried.version.number


def test_a_version_that_the_controller_refuses_is_removed(
    servers: Settings, stand: Stand, tmp_path: Path
) -> None:
    loop = stand.loop(release=release(canary(servers, admin_token="another")))
    with controlling(servers, tmp_path / "log"):
        step = loop.step(stand.write(WINDOW))
    assert step.version is None
    assert "another admin token" in step.reason
    assert stand.repository.version_numbers()[-1] == stand.first
    assert stand.live() == 0


def canary(settings: Settings, **changed: object) -> Settings:
    """Versions are tried out before everyone gets them."""
    trainer = TRAINER.model_copy(update={"release": Release.CANARY})
    return settings.model_copy(update={"trainer": trainer, "rollout": rules(**changed)})


def test_a_canary_needs_the_admin_token(servers: Settings) -> None:
    with pytest.raises(SettingsError, match=r"set rollout\.admin_token"):
        release(canary(servers, admin_token=None))


def test_a_trainer_that_starts_again_goes_on_where_the_last_one_ended(stand: Stand) -> None:
    stand.loop().step(stand.write(WINDOW))
    # What the last one has learned does not wait for this one.
    again = stand.loop()
    step = again.step(stand.write(NEXT))
    assert step.version
    assert checkpoint.read_manifest(step.version.folder).windows == (3,)


def test_windows_that_came_while_no_trainer_ran_are_learned_together(stand: Stand) -> None:
    numbers = [*stand.write(WINDOW), *stand.write(NEXT)]
    loop = stand.unstarted_loop()
    assert loop.start(FILMS)
    assert loop.step([]).windows == tuple(numbers)
    assert stand.live() == 1


def test_a_window_of_events_older_than_what_is_learned_is_of_the_version_after(
    stand: Stand,
) -> None:
    # Partitions are read one after another: what one of them still holds may be the older half.
    loop = stand.loop()
    (new,) = stand.write(NEXT)
    assert loop.step([new]).version
    (late,) = stand.write(WINDOW)
    assert stand.windows.manifest(late).last_ms < stand.windows.manifest(new).last_ms
    step = loop.step([late])
    assert step.windows == (late,)
    after = stand.write(walks(range(130, 170), 1))
    waiting = () if step.version else (late,)
    assert loop.step(after).windows == (*waiting, *after)


def test_a_return_to_an_older_version_is_gone_on_from(stand: Stand) -> None:
    loop = stand.loop()
    loop.step(stand.write(WINDOW))
    stand.announce_first()
    step = loop.step(stand.write(NEXT))
    assert step.version
    manifest = checkpoint.read_manifest(step.version.folder)
    assert (manifest.parent, manifest.windows) == (stand.first, (2, 3))


def test_a_version_is_dropped_that_another_one_has_overtaken(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = stand.loop()
    loop.step(stand.write(WINDOW))

    def meanwhile(*args: Any) -> TrainedModel:
        found = fine_tune(*args)
        stand.announce_first()
        return found

    monkeypatch.setattr(slow_loop, "fine_tune", meanwhile)
    step = loop.step(stand.write(NEXT))
    assert (step.version, stand.live()) == (None, 0)
    assert "become live meanwhile" in step.reason
    monkeypatch.undo()
    assert loop.step([]).windows == (2, 3)
    assert stand.live() == 2


def test_a_corrupted_window_is_left_out_and_the_next_one_learned(
    stand: Stand, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = stand.loop()
    (bad,) = stand.write(WINDOW)
    path = stand.folder / stand.windows.manifest(bad).file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    step = loop.step([bad])
    assert step.version is None
    assert "nothing to learn" in step.reason
    said = capsys.readouterr().out
    assert "window_left_out" in said
    assert "checksum" in said
    assert stand.live() == 0
    assert loop.step(stand.write(NEXT)).version
    assert stand.live() == 1


def test_who_was_taken_out_of_the_windows_is_learned_from_no_more(stand: Stand) -> None:
    loop = stand.loop()
    assert loop.step(stand.write(WINDOW)).version
    people = {"u3", "u60"}
    assert people <= set(loop._history._users)
    for person in people:
        assert stand.windows.erase(person, newest=2) == LENGTH
    (number,) = stand.write(NEXT)
    told = msgspec.structs.replace(stand.windows.manifest(number), erasures=len(people))
    (stand.folder / MANIFESTS / f"{number:08}.json").write_bytes(seal(told))
    assert loop.step([number]).version
    assert people.isdisjoint(loop._history._users)
    assert {"u4", "u61", "u100"} <= set(loop._history._users)
    assert stand.live() == 2


def test_a_window_of_garbage_is_stopped_and_a_good_one_after_it_is_not(stand: Stand) -> None:
    loop = stand.loop()
    step = loop.step(stand.write(swap_items(WINDOW)))
    assert step.version is None
    assert "foresaw it" in step.reason
    assert stand.live() == 0
    assert stand.verdict().refusals == step.reason.split("; ")
    assert loop.step(stand.write(NEXT)).version
    assert stand.live() == 1
    # Nor does a trainer that reads all windows anew take it for what people did.
    after = stand.loop().step(stand.write(walks(range(130, 170), 1)))
    assert (after.windows, after.reason) == ((4,), "")
    assert stand.windows.manifest(2) in QuarantinedWindows(stand.repository.folder)


def test_a_learning_rate_far_too_high_is_stopped(stand: Stand) -> None:
    wild = LEARNING.model_copy(update={"learning_rate": 1000 * LEARNING.learning_rate})
    step = stand.loop(wild).step(stand.write(WINDOW))
    assert step.version is None
    assert "norms: " in step.reason
    assert not stand.verdict().passed
    assert stand.live() == 0


def test_a_window_too_small_to_judge_by_waits_for_the_next(stand: Stand) -> None:
    loop = stand.loop()
    few = stand.write(WINDOW[:1])
    step = loop.step(few)
    assert (step.version, step.verdict) == (None, None)
    assert "waiting for more" in step.reason
    more = stand.write(WINDOW[1:])
    assert loop.step(more).windows == (*few, *more)
    assert stand.live() == 1


def test_without_a_live_version_there_is_nothing_to_learn_on(
    own: Settings, schema: FeatureSchema
) -> None:
    settings = local.up(own, only=["kafka", "triton"])
    ensure_topics(settings.kafka)
    serving = Serving(
        ModelRegistry(
            settings.model_repository,
            model_servers(settings.triton),
            settings.kafka,
            schema,
            TRAINER,
        )
    )
    windows = WindowStore(settings.windows_address)
    loop = SlowLoop(
        windows, serving, SlowLoopSettings(TRAINER, LEARNING, LIMITS), text_encoder=None
    )
    with pytest.raises(DataError, match="no version is live"):
        loop.start([])
