"""A process tells its own metrics: of another's, which stay at 0, alerts would take it for ill."""

from __future__ import annotations

import subprocess
import sys

import pytest

LEADS = "headwater_rollout_leads"
LIST_METRICS = "from prometheus_client import REGISTRY as r; print(*(m.name for m in r.collect()))"


@pytest.mark.parametrize(
    ("service", "leads"),
    [("controller", True), ("trainer", False), ("worker", False), ("api", False)],
)
def test_only_a_controller_says_whether_it_leads(service: str, leads: bool) -> None:
    program = f"import deploy.services.{service}; {LIST_METRICS}"
    told = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert (LEADS in told.split()) is leads
