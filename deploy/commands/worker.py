"""`headwater worker`."""

from deploy import local
from deploy.services.supervisor import configure_logs
from deploy.services.worker import run_worker
from deploy.settings import load_settings


def worker() -> None:
    """Run one worker of the fast loop until it is stopped; exit code 70: start it again."""
    configure_logs()
    run_worker(local.connect(load_settings()))
