"""`headwater trainer`."""

from __future__ import annotations


def trainer() -> None:
    """Run the slow loop until it is stopped: windows of events become versions, once they pass."""
    from deploy import local
    from deploy.logs import configure_logs
    from deploy.settings import load_settings
    from deploy.signals import stopped_by_signals
    from deploy.slow_loop import slow_loop
    from trainer.priority import give_way

    configure_logs()
    settings = local.connect(load_settings(), only=["kafka", "triton"])
    give_way(settings.trainer.nice)
    with stopped_by_signals() as stop:
        for _ in slow_loop(settings, stop):
            pass
