"""Versions side by side on the real servers: who gets which, and what a bad one does to others."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median

import pytest
from confluent_kafka import Message, Producer
from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.events import Recommendation, encode
from headwater_client.topics import ROLLOUTS

from bench.canary.versions import answer_late, answer_nan
from deploy import local
from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.kafka import client_config, ensure_topics
from features.rollout_messages import Rollout, RolloutPhase, RoutedVersion, Variant
from features.schema import FeatureSchema, Vocabulary
from stream.routing import Routes
from tests.harness.models import SETTINGS, untrained
from tests.harness.servers import state_in
from tests.harness.workers import WorkerProcess, WorkerProgress, running
from trainer.registry import ModelRepository

pytestmark = pytest.mark.integration
ANSWER_S = 60.0
STABLE, CANDIDATE, NAN, LATE = 1, 2, 3, 4
# Enough for a busy machine; the late version takes some seconds.
CANARY_TIMEOUT_MS = 400
# On few cores a late version's products slow down all others.
STABLE_TIMEOUT_MS = 5_000
LATE_PRODUCTS = 100
PEOPLE = [f"u{n}" for n in range(200)]
Answers = dict[str, Recommendation]


class Trial:
    """Servers with four versions up, two workers, and an app that sends and reads."""

    def __init__(
        self,
        settings: Settings,
        workers: Sequence[WorkerProcess],
        events: EventProducer,
        answers: RecommendationConsumer,
    ) -> None:
        self.settings = settings
        self.workers = workers
        self._events = events
        self._answers = answers
        self._producer = Producer(client_config(settings.kafka) | {"log_level": "0"})
        self._item = 0

    def act(self, people: Iterable[str]) -> Answers:
        """A click of each person, and what each is recommended then, in order of arrival."""
        self._item += 1
        item_id = f"i{self._item % 100}"
        sent = {self._events.click(user_id=user, item_id=item_id).event_id for user in people}
        found: Answers = {}
        deadline = time.monotonic() + ANSWER_S
        while len(found) < len(sent):
            assert time.monotonic() < deadline, f"{len(found)} answers of {len(sent)}"
            answer = self._answers.receive(1.0)
            if answer is not None and answer.event_id in sent:
                found[answer.user_id] = answer
        return found

    def announce(self, rollout: Rollout) -> int:
        """Say who gets which version; when the broker has it, in milliseconds."""
        taken: list[Message] = []
        self._producer.produce(
            ROLLOUTS,
            encode(rollout),
            MODEL_NAME,
            on_delivery=lambda _, message: taken.append(message),
        )
        assert not self._producer.flush(10)
        return int(taken[0].timestamp()[1])

    def begin(self, rollout: Rollout) -> None:
        """Announce a rollout, and wait until all people are answered by it.

        A version in shadow mode may be there later than the one that is shown.
        """
        self.announce(rollout)
        expected = variants(rollout)
        shadowed = Variant.SHADOW in {each.variant for each in rollout.versions}
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            found = self.act(PEOPLE)
            if all(
                (each.rollout_id, each.variant) == (rollout.rollout_id, expected[user])
                for user, each in found.items()
            ) and shadowed == any(each.shadow for each in found.values()):
                return
        raise AssertionError(f"{rollout} did not take effect")

    def rollout(
        self,
        rollout_id: str,
        phase: RolloutPhase = RolloutPhase.RUNNING,
        **versions: tuple[int, float],
    ) -> Rollout:
        return Rollout(
            model=MODEL_NAME,
            versions=[
                RoutedVersion(
                    version=number,
                    variant=variant,
                    share=share,
                    address=ModelRepository(self.settings.model_repository).version(number).address,
                )
                for variant, (number, share) in versions.items()
            ],
            phase=phase,
            time=int(time.time() * 1000),
            rollout_id=rollout_id,
        )

    def canary(self, rollout_id: str, version: int, share: float) -> Rollout:
        return self.rollout(
            rollout_id,
            stable=(STABLE, 1 - 2 * share),
            canary=(version, share),
            baseline=(STABLE, share),
        )


def variants(rollout: Rollout) -> dict[str, str]:
    """Each person's variant."""
    routes = Routes(MODEL_NAME, load=lambda _: Vocabulary([]))
    routes.follow(rollout)
    routed = {user: routes.assign(user) for user in PEOPLE}
    return {user: each.shown.version.variant for user, each in routed.items() if each}


def of(variant: str, answers: Answers) -> Answers:
    found = {user: answer for user, answer in answers.items() if answer.variant == variant}
    assert found, f"nobody has {variant}"
    return found


def well(answers: Answers, version: int) -> bool:
    """Whether this version has made all of these answers, for whom it was meant."""
    return all(
        (each.model_version, each.failed, each.fallback) == (str(version), "", False)
        and each.latency_ms
        for each in answers.values()
    )


def age_ms(answer: Recommendation) -> int:
    """How long after its event an answer was made."""
    return answer.produced_time - answer.event_time


def is_sooner(some: Iterable[Recommendation], others: Iterable[Recommendation]) -> bool:
    """Whether most of some answers were made sooner than any of the others."""
    return median(map(age_ms, some)) < min(map(age_ms, others))


def copy_version(repository: ModelRepository, version: int, change: Callable[[Path], None]) -> None:
    """A version that is the candidate with another graph."""
    folder = repository.version(version).folder
    shutil.copytree(repository.version(CANDIDATE).folder, folder)
    change(folder / "model.onnx")


def load_versions(settings: Settings) -> None:
    schema = FeatureSchema(settings.features)
    with closing(model_registry(settings, SETTINGS)) as registry:
        registry.publish(untrained(schema, 1))
        registry.write_version(untrained(schema, 2))
    repository, server = registry.repository, registry.servers[0]
    copy_version(repository, NAN, answer_nan)
    copy_version(repository, LATE, lambda graph: answer_late(graph, LATE_PRODUCTS))
    config = (repository.model / "config.pbtxt").read_text()
    with server.connect() as triton:
        triton.load(config, [STABLE, CANDIDATE, NAN, LATE])


@contextmanager
def open_trial(own: Settings, folder: Path) -> Iterator[Trial]:
    settings = local.up(own)
    ensure_topics(settings.kafka)
    load_versions(settings)
    workers = [
        WorkerProcess(settings, name, folder / f"{name}.log") for name in ("first", "second")
    ]
    with ExitStack() as stack:
        events = stack.enter_context(
            EventProducer(settings.kafka.client_settings, {"log_level": 0})
        )
        answers = stack.enter_context(
            RecommendationConsumer(settings.kafka.client_settings, options={"log_level": 0})
        )
        stack.enter_context(running(*workers))
        for user in PEOPLE:
            events.click(user_id=user, item_id="i0")
        events.flush()
        WorkerProgress(settings).wait_for_all(60, workers)
        yield Trial(settings, workers, events, answers)


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp("trial")
    with pytest.MonkeyPatch.context() as environment, state_in(folder / "state") as own:
        environment.setenv("HEADWATER_TRITON__CANARY_TIMEOUT_MS", str(CANARY_TIMEOUT_MS))
        environment.setenv("HEADWATER_TRITON__TIMEOUT_MS", str(STABLE_TIMEOUT_MS))
        with open_trial(own, folder) as trial:
            yield trial


def test_a_person_keeps_a_variant_while_shares_grow_and_a_worker_restarts(trial: Trial) -> None:
    trial.begin(trial.canary("grows", CANDIDATE, 0.1))
    small = trial.act(PEOPLE)
    trial.begin(trial.canary("grows", CANDIDATE, 0.3))
    large = trial.act(PEOPLE)
    trial.workers[0].kill()
    trial.workers[0].start()
    restarted = trial.act(PEOPLE)
    for answers, share in ((small, 0.1), (large, 0.3), (restarted, 0.3)):
        assert well(of("canary", answers), CANDIDATE)
        assert well(of("baseline", answers) | of("stable", answers), STABLE)
        assert abs(len(of("canary", answers)) / len(PEOPLE) - share) < 0.1
    assert of("canary", small).keys() < of("canary", large).keys()
    assert of("baseline", small).keys() < of("baseline", large).keys()
    assert {u: a.variant for u, a in large.items()} == {u: a.variant for u, a in restarted.items()}


def test_who_has_a_version_that_answer_nan_is_answered_by_stable(trial: Trial) -> None:
    trial.begin(trial.canary("nan", NAN, 0.3))
    reasons = set()
    deadline = time.monotonic() + 5
    while not any("not numbers" in reason for reason in reasons) and time.monotonic() < deadline:
        answers = trial.act(PEOPLE)
        assert well(of("stable", answers) | of("baseline", answers), STABLE)
        reasons |= {answer.failed for answer in of("canary", answers).values()}
        assert all(
            answer.failed and answer.model_version == str(STABLE) and not answer.fallback
            for answer in of("canary", answers).values()
        )
    assert reasons == {
        f"version {NAN}: scores that are not numbers",
        f"version {NAN}: not asked, it failed a moment ago",
    }


def test_nobody_else_waits_for_a_version_that_answer_late(trial: Trial) -> None:
    rollout = trial.canary("late", LATE, 0.3)
    trial.begin(rollout)
    late: list[Recommendation] = []
    others: list[Recommendation] = []
    deadline = time.monotonic() + 15
    # Of two workers one may be short of a core for a moment: then its people wait for that.
    while not (late and is_sooner(others, late)) and time.monotonic() < deadline:
        answers = trial.act(PEOPLE)
        assert well(of("stable", answers) | of("baseline", answers), STABLE)
        canary = of("canary", answers).values()
        assert all(each.failed and each.model_version == str(STABLE) for each in canary)
        late = [each for each in canary if "no answer in time" in each.failed]
        others = [each for each in answers.values() if each.variant != "canary"]
    assert late
    assert all((each.latency_ms or 0) >= CANARY_TIMEOUT_MS - 5 for each in late)
    assert is_sooner(others, late)


def test_all_workers_leave_a_version_within_a_second_and_triton_loads_nothing(trial: Trial) -> None:
    trial.begin(trial.canary("leaves", CANDIDATE, 0.5))
    before = loads(trial.settings)
    stable = trial.rollout("leaves", RolloutPhase.ROLLED_BACK, stable=(STABLE, 1.0))
    rolled_back_ms = trial.announce(stable)
    answers: list[Recommendation] = []
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        answers += trial.act(PEOPLE).values()
    after = [each for each in answers if each.produced_time > rolled_back_ms + 1000]
    assert {each.user_id for each in after} == set(PEOPLE)
    assert {each.variant for each in after} == {"stable"}
    assert not any(each.failed or each.fallback for each in answers)
    assert loads(trial.settings) == before


def loads(settings: Settings) -> int:
    """How often Triton has begun to load a version."""
    found = local.log_path(settings, "triton").read_text().count(f"loading: {MODEL_NAME}:")
    assert found
    return found


def test_a_shadow_is_told_beside_what_stable_shows(trial: Trial) -> None:
    shadow = RolloutPhase.SHADOW
    trial.begin(trial.rollout("unseen", shadow, stable=(STABLE, 1.0), shadow=(CANDIDATE, 0.5)))
    answers = trial.act(PEOPLE)
    assert well(of("stable", answers), STABLE)
    shadows = {user: each.shadow for user, each in answers.items() if each.shadow}
    assert abs(len(shadows) / len(PEOPLE) - 0.5) < 0.1
    for user, told in shadows.items():
        shown = [item.item_id for item in answers[user].items]
        assert (told.model_version, told.failed) == (str(CANDIDATE), "")
        assert len(told.items) == len(shown) == trial.settings.worker.top_k
        assert told.items != shown
        assert told.score is not None
        assert told.latency_ms


def test_a_shadow_that_answer_late_changes_nothing_that_is_shown(trial: Trial) -> None:
    trial.begin(
        trial.rollout("hidden", RolloutPhase.SHADOW, stable=(STABLE, 1.0), shadow=(LATE, 0.5))
    )
    answers = trial.act(PEOPLE)
    assert well(of("stable", answers), STABLE)
    shadows = [each.shadow for each in answers.values() if each.shadow]
    assert shadows
    assert all(each.failed and not each.items for each in shadows)
