"""What the demo prints does not hang on how fast the log is replayed."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from deploy.demo import DemoOptions, run_demo
from deploy.local.process import free_port
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


@contextmanager
def watching(url: str) -> Iterator[list[Any]]:
    """What the console tells in the block, each time that it can be asked."""
    told, ended = list[Any](), threading.Event()

    def watch() -> None:
        while not ended.wait(0.3):
            with suppress(OSError), urllib.request.urlopen(f"{url}/v1/admin/now") as answer:
                told.append(json.load(answer))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield told
    finally:
        ended.set()
        thread.join()


def test_two_rates_give_the_same_hit_rate(
    own: Settings, walks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = own.trainer.model_copy(update={"language_model": "", "width": 16, "epochs": 3})
    port = free_port()
    console = own.console.model_copy(update={"port": port})
    # Of so little whatever is learned passes, to be tried out.
    lenient = {"min_events": 10, "margin": 0.9, "max_doubt": 1.0, "max_slowdown": 100.0}
    gate = own.gate.model_copy(update=lenient)
    changed = {"trainer": trainer, "console": console, "gate": gate}
    settings = own.model_copy(update=changed)
    with watching(f"http://127.0.0.1:{port}") as told:
        slow = play(settings, walks, 60.0)
    # It is live while the demo runs, and gone with it.
    assert f"http://127.0.0.1:{port}" in capsys.readouterr().err
    first, last = (sum(each["in_log"] or 0 for each in told[at]["events"]) for at in (0, -1))
    assert last > first
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))
    # Meanwhile a second version is tried out, at first unseen.
    assert "shadow" in {each["variant"] for now in told for each in now["versions"]}
    assert slow["canary"]["state"]
    fast = play(settings, walks, None)
    assert 0 < fast["answered_fraction"] <= 1
    # At leisure more of them are answered one by one, unless others have the core just then.
    assert fast["answered_fraction"] - 0.1 <= slow["answered_fraction"] <= 1
    assert slow["hit_rate_at_10"]["recommended"] > slow["hit_rate_at_10"]["popularity"]
    for name in ("recommended", "popularity"):
        ours, theirs = (figures["hit_rate_at_10"][name] for figures in (slow, fast))
        assert ours == pytest.approx(theirs, abs=0.1), name
