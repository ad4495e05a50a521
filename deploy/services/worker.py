"""Runs a worker in this process."""

import asyncio
import gc

import faust
from prometheus_client import start_http_server

from deploy.settings import Settings
from features.schema import FeatureSchema
from features.store import claim_rows
from features.store.redis import RedisRowStore
from stream.app import make_app
from stream.settings import WorkerConfig


def run_worker(settings: Settings) -> None:
    """Consume, answer, and end with the process when it is told to stop.

    Args:
        settings: with all addresses.
    """
    config = WorkerConfig(
        settings.kafka, settings.store, settings.features, settings.triton, settings.worker
    )
    asyncio.run(_claim(settings))
    app = make_app(config)
    if settings.worker.metrics_port:
        start_http_server(settings.worker.metrics_port, settings.worker.metrics_address)
    # What is imported by now stays: without this a full collection stops the loop for 100 ms.
    gc.freeze()
    faust.Worker(
        app, loglevel="WARN", redirect_stdouts=False, quiet=True
    ).execute_from_commandline()


async def _claim(settings: Settings) -> None:
    """Rows of other settings stop the worker at its start, before it reads one."""
    store = RedisRowStore(settings.store)
    try:
        await claim_rows(store, FeatureSchema(settings.features))
    finally:
        await store.close()
