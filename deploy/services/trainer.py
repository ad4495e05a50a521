"""Runs the slow loop: windows are written in a thread of their own, versions made of them here."""

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial

import structlog
from headwater_client.errors import SettingsError
from prometheus_client import Gauge

from deploy.jobs.optimize import serve_window_variant
from deploy.jobs.train import model_registry
from deploy.rollout import CommandRejectedError, CommandRequest, sign_command
from deploy.rollout.topic import send_command
from deploy.services.health import ServiceHealth, ask_servers, serve_health
from deploy.services.routed_versions import routed_versions_kept
from deploy.services.supervisor import StopSignal
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.kafka.access import Role, check_rights
from features.metrics import make_counter
from features.rollout_messages import RolloutAction
from features.rollouts import warn_if_unsigned
from trainer.loop import Serving, SlowLoop, SlowLoopSettings, SlowLoopStep
from trainer.progress import Stopwatch
from trainer.registry import (
    ModelRegistry,
    ModelRepository,
    ModelVersion,
    ReleaseVersion,
    RolloutRejectedError,
)
from trainer.settings import Release
from trainer.text import load_text_encoder
from trainer.windows.reader import CatalogueReader
from trainer.windows.store import WindowManifest, WindowStore
from trainer.windows.writer import WindowWriter

WAIT_S = 0.2
TRAINER = "trainer"
STEPS = make_counter(
    "headwater_learning_steps_total",
    "Turns of the slow loop, by whether a version came of the windows",
    "outcome",
    ("version", "none"),
)
GATE_NDCG = Gauge(
    "headwater_gate_ndcg_at_10", "Quality on held-out events, at the newest gate", ["version"]
)
LAST_WINDOW = Gauge(
    "headwater_last_window_timestamp_seconds", "When the newest window of this trainer closed"
)
log = structlog.get_logger()


def slow_loop(settings: Settings, stop: StopSignal) -> Generator[SlowLoopStep]:
    """Turn windows into versions until it is stopped; a step for all that closed meanwhile.

    Told to stop while it makes a version, it ends at once: the next trainer goes on where it was.

    Raises:
        DataError: no version is live, or what is there is damaged.
        ServerError: Triton or Kafka does not answer for longer than it is waited for.
        ConcurrentWriterError, RepositoryLockedError: another trainer is at work here.
    """
    warn_if_unsigned(settings.kafka)
    check_rights(settings.kafka, Role.TRAINER)
    store = WindowStore(settings.windows_address)
    missing = {"model": "the live version and the windows are being read"}
    health = ServiceHealth(
        {"model": lambda: missing.get("model", ""), **ask_servers(settings, "kafka", "triton")}
    )

    @contextmanager
    def working() -> Iterator[None]:
        with health.busy("loop"), stop.interrupting():
            yield

    port, address = settings.trainer.metrics_port, settings.trainer.metrics_address
    with (
        serve_health("trainer", port, address, health),
        routed_versions_kept(settings),
        closing(model_registry(settings)) as registry,
        closing(CatalogueReader(settings.kafka)) as catalogue,
    ):
        with working():
            loop = _loop(settings, store, registry)
            waiting = loop.start(catalogue.news())
        log.info("trainer_started", windows_waiting=waiting)
        missing.clear()
        if waiting:
            with working():
                step = loop.step([])
            yield log_step(step, {})
        with _windows(settings, store, health) as closed_windows:
            while not stop.is_set():
                health.turn()
                catalogue.keep_up()
                if closed := closed_windows():
                    waited_s = time.time() - closed[0].closed_ms / 1000
                    clock = Stopwatch()
                    with clock.stage("catalogue"):
                        items = catalogue.news()
                    with working():
                        step = loop.step([one.number for one in closed], items)
                    yield log_step(step, {"waited": waited_s, **clock.seconds})


def _loop(settings: Settings, store: WindowStore, registry: ModelRegistry) -> SlowLoop:
    return SlowLoop(
        store,
        Serving(registry, release(settings), serve_window_variant(settings)),
        SlowLoopSettings(settings.trainer, settings.fine_tune, settings.gate),
        load_text_encoder(settings.trainer.language_model, settings.local.cache_dir),
    )


def release(settings: Settings) -> ReleaseVersion | None:
    """How versions come to people, as the settings say; None: to everyone at once.

    Raises:
        SettingsError: a rollout would have to be started without the admin token.
    """
    if settings.trainer.release is Release.EVERYONE:
        return None
    if settings.rollout.admin_token is None:
        raise SettingsError(
            "trainer.release = 'canary': starts rollouts, which needs the admin token: set "
            "rollout.admin_token"
        )
    return partial(_try_out, settings)


def _try_out(settings: Settings, version: ModelVersion) -> bool:
    """Ask the controller to try a version out; false, since the one before it stays live.

    Raises:
        RolloutRejectedError: it refuses.
        ServerError: Kafka does not answer, or no controller does.
    """
    reason = f"version {version.number} has passed the gate"
    # The same however often it is sent: an answer may be lost.
    attempt = ModelRepository(settings.model_repository).attempt(version)
    request = CommandRequest(
        MODEL_NAME,
        RolloutAction.START,
        TRAINER,
        reason,
        version.number,
        version.address,
        command_id=f"start-{attempt}",
    )
    try:
        send_command(settings.kafka, sign_command(settings.rollout, request))
    except CommandRejectedError as error:
        raise RolloutRejectedError(str(error)) from error
    return False


def log_step(step: SlowLoopStep, before: dict[str, float]) -> SlowLoopStep:
    """Log a step, and the seconds of all stages since its first window closed; count it."""
    STEPS.labels("version" if step.version else "none").inc()
    if step.verdict:
        GATE_NDCG.labels("candidate").set(step.verdict.candidate.ndcg_at_10)
        GATE_NDCG.labels("live").set(step.verdict.reference.ndcg_at_10)
    seconds = before | step.seconds
    stages = {f"{name.replace(' ', '_')}_s": round(value, 3) for name, value in seconds.items()}
    if step.version and step.verdict:
        log.info(
            "version_made",
            version=step.version.number,
            windows=step.windows,
            ndcg_at_10=step.verdict.candidate.ndcg_at_10,
            before=step.verdict.reference.ndcg_at_10,
            **stages,
        )
    else:
        log.warning("no_new_version", windows=step.windows, reason=step.reason, **stages)
    return step


@contextmanager
def _windows(
    settings: Settings, store: WindowStore, health: ServiceHealth
) -> Iterator[Callable[[], list[WindowManifest]]]:
    """Writes windows meanwhile; gives those that closed since it was asked last, after a wait."""
    writer = WindowWriter(settings.kafka, store, settings.windows, settings.events)
    written: queue.SimpleQueue[WindowManifest] = queue.SimpleQueue()
    ended = threading.Event()

    def write() -> None:
        for manifest in writer.run(ended, on_turn=partial(health.turn, "windows")):
            written.put(manifest)

    with ThreadPoolExecutor(1, thread_name_prefix="windows") as pool:
        writing = pool.submit(write)

        def take_written() -> list[WindowManifest]:
            if writing.done():
                writing.result()
            closed = _drain(written)
            if closed:
                LAST_WINDOW.set(closed[-1].closed_ms / 1000)
            return closed

        try:
            yield take_written
        finally:
            ended.set()
        writing.result()


def _drain(written: queue.SimpleQueue[WindowManifest]) -> list[WindowManifest]:
    """All that is there, after a short wait for the first."""
    found: list[WindowManifest] = []
    with suppress(queue.Empty):
        found.append(written.get(timeout=WAIT_S))
        while True:
            found.append(written.get_nowait())
    return found
