"""`headwater controller`."""

from deploy import local
from deploy.services.controller import run_controller
from deploy.services.supervisor import configure_logs, graceful_shutdown
from deploy.settings import load_settings


def controller() -> None:
    """Run the rollout controller until it is stopped; of several, one leads."""
    configure_logs()
    settings = local.connect(load_settings())
    with graceful_shutdown() as stop:
        run_controller(settings, stop)
