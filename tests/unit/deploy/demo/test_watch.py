"""What goes wrong in a thread of the demo ends the demo: it never waits for what has died."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from deploy.demo.screen import Watch
from deploy.settings import LocalSettings, Settings
from features.settings import BrokerSettings


def test_whatever_a_look_finds_wrong_is_raised(tmp_path: Path) -> None:
    settings = Settings(
        kafka=BrokerSettings(bootstrap_servers="127.0.0.1:9"),
        local=LocalSettings(state_dir=tmp_path),
    )

    def broken() -> None:
        raise ZeroDivisionError

    with Watch(settings, broken) as watch:

        def look() -> None:
            for _ in range(200):
                time.sleep(0.05)
                watch.check()

        with pytest.raises(ZeroDivisionError):
            look()
