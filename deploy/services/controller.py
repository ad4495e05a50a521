"""Runs the controller in this process, and starts anew whenever it cannot go on."""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import structlog
from headwater_client.errors import HeadwaterError, ServerError, SettingsError
from prometheus_client import Counter

from deploy.rollout import FencedError, RolloutSettings, Trial
from deploy.rollout.commands import is_short
from deploy.rollout.controller import ControllerFleet, Dependencies
from deploy.rollout.feedback.consumer import FeedbackConsumer
from deploy.rollout.feedback.ledger import FeedbackScope
from deploy.rollout.log import RolloutLog
from deploy.rollout.subjects import ModelSubject, PlacementSubject, Subject
from deploy.services.health import ServiceHealth, ask_servers, serve_health, store_problem
from deploy.services.routed_versions import routed_versions_kept
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.kafka import ensure_sources, topic_ids
from features.kafka.access import Role, check_rights
from features.model_server import on_each
from features.placement_topic import PlacementView
from features.positions import WATCH_S
from features.rollout_messages import placement_of
from features.rollouts import warn_if_unsigned
from features.schema import FILE_NAME, read_version
from features.settings import LEAST_KEY_CHARS
from features.store.redis import RedisRowStore
from features.topics import Hash, source_hash
from stream.inference import model_servers

PAUSE_S = 1.0
LONG_PAUSE_S = 5.0
RESTARTS = Counter(
    "headwater_rollout_restarts_total", "Times that a controller began anew", ["reason"]
)
log = structlog.get_logger()


def run_controller(settings: Settings, stop: threading.Event) -> None:
    """Lead, or wait to lead, until told to stop.

    Raises:
        ServerError: Kafka does not answer at the start.
        SettingsError: a topic has another number of partitions.
    """
    rules, missing = settings.rollout, {"rollouts": "is not read yet"}
    health = ServiceHealth(
        {
            "rollouts": lambda: missing["rollouts"],
            "store": lambda: store_problem(settings.store),
            **ask_servers(settings, "kafka", "triton"),
        }
    )

    def on_turn(problem: str) -> None:
        missing["rollouts"] = problem
        health.turn()

    with (
        serve_health("rollout", rules.metrics_port, rules.metrics_address, health),
        routed_versions_kept(settings),
    ):
        asyncio.run(_run(settings, stop, on_turn))


async def _run(settings: Settings, stop: threading.Event, on_turn: Callable[[str], None]) -> None:
    sources: Mapping[tuple[str, int], Hash] = ensure_sources(settings.kafka)
    check_rights(settings.kafka, Role.CONTROLLER)
    rules = settings.rollout
    store = RedisRowStore(settings.store)
    log.info("controller_started", steps=rules.steps, can_be_commanded=bool(rules.admin_token))
    warn_if_unsigned(settings.kafka)
    if is_short(rules):
        log.warning(
            "admin_token_short",
            remedy=f"set rollout.admin_token to {LEAST_KEY_CHARS} characters or more, such as "
            "those of: openssl rand -hex 32; the next release refuses a shorter one",
        )
    try:
        while not stop.is_set():
            feedback = _TrialFeedback(settings, store, sources)
            has_changed = await _lead(settings, feedback, stop, on_turn)
            # What was counted is read anew, of whichever server the store is by now.
            await store.close()
            if has_changed:
                sources = await _name_sources(settings, sources)
    finally:
        await store.close()


@dataclass(frozen=True)
class _TrialFeedback:
    """Counts the feedback of a rollout from the topics as they were when it began.

    Attributes:
        sources: what rows call each partition.
    """

    settings: Settings
    store: RedisRowStore
    sources: Mapping[tuple[str, int], Hash]

    def count(self, trial: Trial, rules: RolloutSettings) -> FeedbackConsumer:
        """A consumer of the feedback of a trial."""
        scope = FeedbackScope(
            trial.rollout_id,
            trial.started_ms,
            int(1000 * rules.credit_window_s),
            rules.purchase_reward,
            of_placement=trial.change is not None,
        )
        settings = self.settings
        return FeedbackConsumer(settings.kafka, self.store, self.sources, scope, settings.events)

    def has_changed(self) -> bool:
        """Whether a topic was made anew since it began; False where Kafka does not say."""
        names = {topic for topic, _ in self.sources}
        try:
            found = topic_ids(self.settings.kafka, names)
        except ServerError as error:
            log.warning("kafka_away", reason=str(error))
            return False
        return any(source_hash(found[name], 0) != self.sources[name, 0] for name in found)


async def _name_sources(
    settings: Settings, before: Mapping[tuple[str, int], Hash]
) -> Mapping[tuple[str, int], Hash]:
    """What rows call each partition by now; as before, where Kafka does not say."""
    try:
        return await asyncio.to_thread(ensure_sources, settings.kafka)
    except HeadwaterError as error:
        log.warning("topics_not_read", reason=str(error))
        return before


async def _lead(
    settings: Settings,
    feedback: _TrialFeedback,
    stop: threading.Event,
    on_turn: Callable[[str], None],
) -> bool:
    """Lead until told to stop, or until it has to start anew.

    Args:
        on_turn: told each time why it does not lead or wait to yet; "" where it does.

    Returns:
        Whether a topic of feedback was made anew.
    """
    with (
        RolloutLog(settings.kafka, MODEL_NAME) as rollouts,
        closing(PlacementView(settings.kafka)) as placements,
    ):

        def make_subject(name: str) -> Subject:
            placement = placement_of(name)
            if placement is None:
                return ModelSubject(name, partial(find_problem, settings))
            return PlacementSubject(placement, placements.table)

        dependencies = Dependencies(feedback.count, make_subject, placements.refresh)
        controller = ControllerFleet(rollouts, settings.rollout, dependencies)
        looked_s = time.monotonic()
        try:
            while not stop.is_set():
                await controller.run_once()
                on_turn(rollouts.problem)
                if time.monotonic() - looked_s >= WATCH_S:
                    looked_s = time.monotonic()
                    if await asyncio.to_thread(feedback.has_changed):
                        log.warning("controller_begins_anew", reason="a topic was made anew")
                        return True
        except FencedError as error:
            RESTARTS.labels("deposed").inc()
            log.warning("controller_deposed", reason=str(error))
        except ServerError as error:
            RESTARTS.labels("server away").inc()
            log.warning("controller_begins_anew", reason=str(error))
            on_turn(str(error))
            await asyncio.sleep(PAUSE_S)
        except SettingsError as error:
            RESTARTS.labels("refused").inc()
            log.warning("controller_begins_anew", reason=str(error))
            on_turn(str(error))
            await asyncio.sleep(LONG_PAUSE_S)
        except Exception as error:
            # Whatever stands on the topic: a controller that ended would meet it again. Workers
            # stop showing a trial that nobody decides on.
            RESTARTS.labels(type(error).__name__).inc()
            log.exception("controller_begins_anew", reason=repr(error))
            on_turn(f"begins anew: {type(error).__name__}")
            await asyncio.sleep(LONG_PAUSE_S)
        finally:
            controller.close()
    return False


def find_problem(settings: Settings, version: int, address: str) -> str:
    """Why a version cannot be tried out; "" where it can."""
    try:
        allowed = settings.worker.model_addresses
        read_version(f"{address.rstrip('/')}/{FILE_NAME}", None, allowed)
        servers = model_servers(settings.triton)
        if not all(on_each(servers, lambda triton: triton.is_ready(version))):
            return "is not loaded in Triton"
    except Exception as error:  # noqa: BLE001  (an address is somebody else's: said, not raised)
        said = " ".join(str(error).split())
        return said if isinstance(error, HeadwaterError) else f"{type(error).__name__}: {said}"
    return ""
