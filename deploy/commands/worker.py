"""`headwater worker`."""

from __future__ import annotations


def worker() -> None:
    """Run one worker of the fast loop until it is stopped; exit code 70: start it again."""
    from deploy import local
    from deploy.logs import configure_logs
    from deploy.settings import load_settings
    from deploy.worker import run_worker

    configure_logs()
    run_worker(local.connect(load_settings()))
