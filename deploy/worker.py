"""Runs a worker in this process."""

from __future__ import annotations

import gc

import faust
from prometheus_client import start_http_server

from deploy.settings import Settings
from stream.app import WorkerConfig, make_app


def run_worker(settings: Settings) -> None:
    """Consume, answer, and end with the process when it is told to stop.

    Args:
        settings: with all addresses.
    """
    config = WorkerConfig(
        settings.kafka, settings.store, settings.features, settings.triton, settings.worker
    )
    app = make_app(config)
    if settings.worker.metrics_port:
        start_http_server(settings.worker.metrics_port, addr="127.0.0.1")
    # What is imported by now stays: without this a full collection stops the loop for 100 ms.
    gc.freeze()
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()
