"""Runs the controller in this process, and begins anew whenever it cannot go on."""

from __future__ import annotations

import asyncio
import threading

import structlog
from headwater_client.errors import HeadwaterError, ServerError
from prometheus_client import start_http_server

from deploy.jobs.train import model_server
from deploy.rollout.controller import Controller, Surroundings
from deploy.rollout.feedback import AnotherCounterError, Feedback
from deploy.rollout.log import DeposedError, RolloutLog
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.kafka import ensure_sources
from features.store import RowStore
from features.vocabulary import FILE_NAME, read_vocabulary

PAUSE_S = 1.0
log = structlog.get_logger()


def run_controller(settings: Settings, stop: threading.Event) -> None:
    """Lead, or wait to lead, until it is told to stop.

    Raises:
        ServerError: Kafka does not answer at the start.
        SettingsError: a topic has another number of partitions.
    """
    if settings.rollout.metrics_port:
        start_http_server(settings.rollout.metrics_port, settings.rollout.metrics_address)
    asyncio.run(_run(settings, stop))


async def _run(settings: Settings, stop: threading.Event) -> None:
    sources = ensure_sources(settings.kafka)
    rules = settings.rollout
    store = RowStore(settings.store)

    def feedback(rollout_id: str, started_ms: int) -> Feedback:
        return Feedback(
            settings.kafka,
            store,
            sources,
            rollout_id,
            started_ms,
            rules.credit_window_s,
            rules.purchase_weight,
        )

    surroundings = Surroundings(feedback, lambda *version: refusal(settings, *version))
    log.info("controller_started", steps=rules.steps, can_be_commanded=bool(rules.admin_token))
    try:
        while not stop.is_set():
            await _lead(settings, surroundings, stop)
    finally:
        await store.close()


async def _lead(settings: Settings, surroundings: Surroundings, stop: threading.Event) -> None:
    """Until it is told to stop, or has to begin anew."""
    with RolloutLog(settings.kafka, MODEL_NAME) as rollouts:
        controller = Controller(rollouts, MODEL_NAME, settings.rollout, surroundings)
        try:
            while not stop.is_set():
                await controller.turn()
        except (DeposedError, AnotherCounterError) as error:
            log.warning("controller_deposed", reason=str(error))
        except ServerError as error:
            log.warning("controller_begins_anew", reason=str(error))
            await asyncio.sleep(PAUSE_S)
        finally:
            controller.close()


def refusal(settings: Settings, version: int, address: str) -> str:
    """Why a version cannot be tried out; "" where it can."""
    try:
        read_vocabulary(f"{address.rstrip('/')}/{FILE_NAME}")
        with model_server(settings).connected() as triton:
            if not triton.is_ready(version):
                return "is not loaded in Triton"
    except (OSError, ValueError, HeadwaterError) as error:
        return " ".join(str(error).split())
    return ""
