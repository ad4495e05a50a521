"""What the demo prints does not hang on how fast the log is replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.demo import DemoOptions, run_demo
from deploy.settings import Settings
from trainer.datasets.log import DataSource
from trainer.datasets.tables import mapping_from_options

PEOPLE, ITEMS, STEPS = 60, 300, 40
START_S = 1_700_000_000


@pytest.fixture
def walks(tmp_path: Path) -> Path:
    """A log in which each person walks from item to item, an hour a step."""
    rows = ["user,item,time"]
    for step in range(STEPS):
        for person in range(PEOPLE):
            item = (5 * person + step) % ITEMS
            rows.append(f"p{person},i{item},{START_S + 3600 * step + 10 * person}")
    path = tmp_path / "walks.csv"
    path.write_text("\n".join(rows))
    return path


def play(settings: Settings, log: Path, rate: float | None) -> dict[str, Any]:
    mapping = mapping_from_options(["user=user", "item=item", "time=time"], ["click"])
    source = DataSource(settings.local.cache_dir, log, mapping)
    return run_demo(settings, DemoOptions(source, rate=rate))


def test_two_rates_give_the_same_hit_rate(own: Settings, walks: Path) -> None:
    trainer = own.trainer.model_copy(update={"language_model": "", "width": 16, "epochs": 3})
    settings = own.model_copy(update={"trainer": trainer})
    slow, fast = (play(settings, walks, rate) for rate in (60.0, None))
    assert 0 < fast["answered_fraction"] <= 1
    # At leisure more of them are answered one by one, unless others have the core just then.
    assert fast["answered_fraction"] - 0.1 <= slow["answered_fraction"] <= 1
    assert slow["hit_rate_at_10"]["recommended"] > slow["hit_rate_at_10"]["popularity"]
    for name in ("recommended", "popularity"):
        ours, theirs = (figures["hit_rate_at_10"][name] for figures in (slow, fast))
        assert ours == pytest.approx(theirs, abs=0.1), name
