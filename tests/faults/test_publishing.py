"""A trainer killed at random moments of publishing: each version is whole, and goes live once."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from headwater_client.topics import ROLLOUTS

from deploy import local
from deploy.jobs.train import model_registry
from deploy.settings import Settings
from features.kafka import ensure_topics
from features.rollout_messages import Rollout
from features.schema import FeatureSchema
from stream.inference import model_servers
from tests.faults.killed_publishers import KEPT
from tests.harness.models import ITEMS, SETTINGS, untrained
from tests.harness.oracle import read_topic
from tests.harness.waiting import wait_until
from tests.harness.workers import environment
from trainer.registry import ModelRepository, checkpoint
from trainer.registry.loaded import check_answer
from trainer.registry.repository import LOCK

STEPS = (
    "VersionWriter.stage>Path.mkdir:return",
    ">save:return",
    ">VersionWriter._fill:return",
    ">seal:return",
    "commit>Path.touch:return",
    "commit>Path.rename:return",
    ">ModelServerClient.load:return",
    ">check_answer:return",
    "write_message>Producer.produce:return",
    "go_live>ModelRepository.mark_announced:call",
    "go_live>ModelRepository.mark_announced:return",
    "narrow>LoadedVersions._load:return",
    "remove>Path.rename:return",
    "remove>rmtree:return",
)
COMMITTED = "ModelRepository.commit>Path.rename:return"
NEVER = "never"
LONGEST_PAUSE_S = 0.3
SCRIPT = "tests.faults.killed_publishers"


class Trainers:
    """The process that makes trainers and kills them."""

    def __init__(self, process: subprocess.Popen[str], seed: int) -> None:
        self._process = process
        self._seed = seed

    def live(self, moment: str = NEVER, pause_s: float = 0.0) -> str:
        """Let one live until so long after this moment; which one that was."""
        self._seed += 1
        assert self._process.stdin
        assert self._process.stdout
        print(self._seed, moment, pause_s, file=self._process.stdin, flush=True)
        return self._process.stdout.readline().strip()


@contextmanager
def trainers(settings: Settings, log: Path, *options: str) -> Iterator[Trainers]:
    variables = environment(settings, "trainers")
    variables["HEADWATER_MODEL_REPOSITORY"] = str(settings.model_repository)
    with (
        log.open("a") as errors,
        subprocess.Popen(
            (sys.executable, "-m", SCRIPT, *options),
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        yield Trainers(process, random.randrange(2**20))


@pytest.fixture
def own_servers(own: Settings) -> Settings:
    """Kafka and Triton for one test, with an empty model repository."""
    settings = local.up(own, only=["kafka", "triton"])
    ensure_topics(settings.kafka)
    return settings


def check(settings: Settings, schema: FeatureSchema, items: int = ITEMS + 2) -> int | None:
    """What Triton can see is whole, and it answers for what is live; which is that.

    Args:
        items: of the versions.
    """
    repository = ModelRepository(settings.model_repository)
    model = repository.model
    visible = {path.name for path in model.iterdir()} if model.exists() else set()
    assert all(name.isdecimal() or name == "config.pbtxt" for name in visible)
    for number in repository.version_numbers():
        checkpoint.verify(model / str(number))
    with closing(model_registry(settings)) as registry:
        live = registry.live_version()
    if live is not None:
        with registry.servers[0].connect() as triton:
            assert triton.is_ready(live)
            check_answer(triton, live, model / str(live) / "model.onnx", items, schema)
    return live


def announced_versions(settings: Settings) -> list[int]:
    """The versions that went live, in order; one announced twice in a row is there once."""
    rollouts = [
        msgspec.json.decode(value, type=Rollout)
        for _, _, value in read_topic(settings, ROLLOUTS, 1)
    ]
    numbers = [rollout.versions[0].version for rollout in rollouts]
    return numbers[:1] + [new for old, new in pairwise(numbers) if new != old]


def check_end(settings: Settings, schema: FeatureSchema) -> None:
    """After a trainer that nobody killed: nothing is left to do, and nothing was left out."""
    live = check(settings, schema)
    assert live is not None
    assert announced_versions(settings) == list(range(1, live + 1))
    repository = ModelRepository(settings.model_repository)
    assert [path.name for path in repository.staging.iterdir()] == [LOCK]
    numbers = repository.version_numbers()
    assert numbers == list(range(live - KEPT + 1, live + 1))
    [server] = model_servers(settings.triton)
    with server.connect() as triton:
        assert triton.list_ready(numbers) == [live - 1, live]


def moments_of(moments: int, chance: random.Random) -> list[str]:
    """After each step, and anywhere in a life, in any order.

    Lives differ a little, so the last of `moments` may not come in each.
    """
    chosen = [*STEPS, str(chance.randrange(1, int(0.9 * moments)))]
    chance.shuffle(chosen)
    return chosen


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_each_version_goes_live_whole_and_once_after_kills(
    own_servers: Settings, tmp_path: Path
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance, schema = random.Random(seed), FeatureSchema(own_servers.features)
    log = tmp_path / "trainers.log"
    with trainers(own_servers, log) as publishing:
        # Of the second, which does what all that follow do.
        _, (word, moments) = (publishing.live().split() for _ in range(2))
        assert word == "lived"
        newest = 0
        for moment in moments_of(int(moments), chance):
            pause_s = chance.choice([0.0, chance.uniform(0, LONGEST_PAUSE_S)])
            found = publishing.live(moment, pause_s)
            print(f"{moment} + {pause_s:.3f} s: {found}")
            assert ">" in found
            live = check(own_servers, schema)
            assert live is not None
            assert live >= newest
            newest = live
        assert publishing.live().startswith("lived")
    check_end(own_servers, schema)
    assert "Traceback" not in log.read_text()


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_without_recovery_a_version_would_never_go_live(
    own_servers: Settings, tmp_path: Path
) -> None:
    """The test above can fail: the same, with trainers that do not look for what was left."""
    with trainers(own_servers, tmp_path / "trainers.log", "forgetful") as publishing:
        assert publishing.live(COMMITTED) == COMMITTED
        assert publishing.live().startswith("lived")
    with pytest.raises(AssertionError, match=r"assert \[2, 3\] == \[1, 2, 3\]"):
        check_end(own_servers, FeatureSchema(own_servers.features))


@pytest.mark.faults
@pytest.mark.parametrize("name", ["triton", "kafka"])
def test_a_server_that_is_away_is_waited_for(
    own: Settings, own_servers: Settings, name: str
) -> None:
    schema = FeatureSchema(own_servers.features)
    registry = model_registry(own_servers, SETTINGS.model_copy(update={"publish_retry_s": 200.0}))
    local.down(own, only=[name])
    with ThreadPoolExecutor(1) as pool:
        published = pool.submit(registry.publish, untrained(schema, 1))
        wait_until(registry.repository.version(1).folder.is_dir, 60)
        local.up(own, only=[name])
        assert published.result().number == 1
    assert check(own_servers, schema) == 1
