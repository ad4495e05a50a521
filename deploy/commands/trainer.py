"""`headwater trainer`."""

from __future__ import annotations

from deploy import local
from deploy.services.logging import configure_logs
from deploy.services.signals import graceful_shutdown
from deploy.services.trainer import slow_loop
from deploy.settings import load_settings
from trainer.priority import give_way


def trainer() -> None:
    """Run the slow loop: windows of events become versions, once they pass the gate.

    It runs until it is stopped.
    """
    configure_logs()
    settings = local.connect(load_settings(), only=["kafka", "triton"])
    give_way(settings.trainer.nice)
    with graceful_shutdown() as stop:
        for _ in slow_loop(settings, stop):
            pass
