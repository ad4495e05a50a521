"""A whole trainer killed at random moments: no event lost or in two windows, no half version."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from headwater_client import EventProducer

from deploy import local
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from stream.inference import model_servers
from tests.faults.test_publishing import check
from tests.faults.test_windows import check_each_once
from tests.harness.walks import ITEMS, Events, catalogue, walks
from tests.harness.workers import environment
from tests.unit.trainer.training.test_fine_tune import SETTINGS, TUNING
from trainer.datasets import Log
from trainer.registry import ModelRegistry, ModelRepository, checkpoint
from trainer.training import TrainingSetup, train_first_model
from trainer.windows.store import WindowStore

KILLS = 6
# A life, from its start to what it does once a version is live.
LONGEST_S = 5.0
PEOPLE = 20
BEFORE = walks(range(50), 1)
SCRIPT = "tests.faults.killed_trainers"
FEATURES = FeatureSettings(history_length=8)
TRAINER = SETTINGS.model_copy(update={"language_model": ""})
# Windows of `PEOPLE`; a gate that neither chance nor a busy machine closes.
CONFIG = f"""
[features]
history_length = 8
[trainer]
language_model = ""
keep_versions = 1000
width = {TRAINER.width}
dropout = {TRAINER.dropout}
threads = 1
[windows]
max_events = {8 * PEOPLE}
duration_s = {400 * 86_400}
idle_s = 5
[fine_tune]
epochs = 1
replay = 1.0
learning_rate = {TUNING.learning_rate}
batch_size = 4
gate_fraction = 0.3
[gate]
min_events = 20
margin = 0.9
max_doubt = 1
max_latency_ms = 60000
max_slowdown = 1000
"""


class Trainers:
    """The process that makes trainers and kills them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def live(self, pause_s: float, number: int) -> str:
        """Let one live until it gets a signal after so long; how it ended."""
        self._say(pause_s, number)
        for line in self._lines():
            if line in ("killed", "stopped", "ended"):
                return line
        return "gone"

    def live_until(self, window: int) -> None:
        """Let one live until it has seen to this window."""
        self._say(-1, 0)
        for line in self._lines():
            assert line not in ("ended", "stopped")
            if str(window) in line.split():
                return

    def _say(self, pause_s: float, number: int) -> None:
        assert self._process.stdin
        print(pause_s, int(number), file=self._process.stdin, flush=True)

    def _lines(self) -> Iterator[str]:
        assert self._process.stdout
        return (line.strip() for line in self._process.stdout)


@contextmanager
def trainers(settings: Settings, log: Path) -> Iterator[Trainers]:
    config = log.with_suffix(".toml")
    config.write_text(CONFIG)
    variables = environment(settings, "trainers") | {"HEADWATER_CONFIG": str(config)}
    variables["HEADWATER_MODEL_REPOSITORY"] = str(settings.model_repository)
    variables["HEADWATER_LOCAL__STATE_DIR"] = str(settings.local.state_dir)
    with (
        log.open("a") as errors,
        subprocess.Popen(
            (sys.executable, "-m", SCRIPT),
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        ) as process,
    ):
        try:
            yield Trainers(process)
        finally:
            # Whoever lives in there, too.
            os.killpg(process.pid, signal.SIGKILL)


def send(settings: Settings, events: Events) -> None:
    with EventProducer(settings.kafka.client_settings) as producer:
        for event in events:
            producer.send(event)


def check_lineage(settings: Settings) -> None:
    """Each version learned what came after its parent's windows, and all of that."""
    repository = ModelRepository(settings.model_repository)
    numbers = repository.version_numbers()
    versions = [checkpoint.verify(repository.version(number).folder) for number in numbers]
    assert [one.parent for one in versions] == [None, *range(1, len(versions))]
    learned = [window for one in versions for window in one.windows]
    newest = WindowStore(settings.windows_address).numbers()[-1]
    assert learned == list(range(learned[0], newest + 1))


@pytest.mark.faults
@pytest.mark.timeout(900)
def test_a_trainer_killed_again_and_again_loses_nothing(own: Settings, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, schema = random.Random(seed), FeatureSchema(FEATURES)
    settings = local.up(own, only=["kafka", "triton"])
    ensure_topics(settings.kafka)
    films = catalogue([f"i{at}" for at in range(ITEMS)])
    first = train_first_model(Log(BEFORE, films), schema, TrainingSetup(TRAINER))
    with closing(
        ModelRegistry(
            settings.model_repository,
            model_servers(settings.triton),
            settings.kafka,
            schema,
            TRAINER,
        )
    ) as registry:
        registry.publish(first)
    send(settings, BEFORE)
    newest, log = 1, tmp_path / "trainers.log"
    with trainers(settings, log) as trained:
        for kill in range(KILLS):
            begin = len(BEFORE) // 8 + kill * PEOPLE
            send(settings, walks(range(begin, begin + PEOPLE), 1))
            # Every third is told to stop, wherever it is: it does, in half a minute.
            number, end = (
                (signal.SIGTERM, "stopped") if kill % 3 == 2 else (signal.SIGKILL, "killed")
            )
            assert trained.live(chance.uniform(0, LONGEST_S), number) == end
            live = check(settings, schema, first.model.architecture.items)
            assert live is not None
            assert live >= newest
            newest = live
        begin += PEOPLE
        send(settings, walks(range(begin, begin + PEOPLE), 1))
        trained.live_until(-(-8 * (begin + PEOPLE) // (8 * PEOPLE)))
        check_each_once(settings, Path(settings.windows_address))
    check_lineage(settings)
    live = check(settings, schema, first.model.architecture.items)
    assert live is not None
    assert live > 1
    assert "Traceback" not in log.read_text()
