"""Processes on real servers: their settings, their environment, and how far a group of them is.

Shared by the benchmarks and by the tests.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from headwater_client.errors import ServerError

from deploy.local.process import free_port
from deploy.settings import LocalSettings, Settings
from deploy.settings_text import variable
from features.kafka import client_config, log_topics
from features.settings import BrokerSettings, StoreSettings
from stream.settings import TritonSettings

WORKER = ("-m", "deploy.cli", "worker")
_STOP_S = 20.0
_ANSWER_S = 20.0
_POLL_S = 0.1
_TRIES = 100


_PORTS = [name for name in LocalSettings.model_fields if name.endswith("_port")]


def local_settings(state_dir: Path) -> Settings:
    """Settings under which every server is local, whatever the environment says.

    The ports are free ones, not the usual ones, which others on this machine may hold: a server
    that is stopped and started again has the port that it had.
    """
    inherited = LocalSettings.model_validate(Settings().local.model_dump())
    ports: dict[str, int] = {}
    for name in _PORTS:
        ports[name] = free_port(ports.values())
    return Settings(
        kafka=BrokerSettings(),
        store=StoreSettings(),
        triton=TritonSettings(),
        local=inherited.model_copy(update={"state_dir": state_dir, **ports}),
        model_repository=state_dir / "model_repo",
    )


def server_variables(settings: Settings) -> dict[str, str]:
    """Environment variables that say where the servers are."""
    key = settings.triton.control_key
    return variables_of(
        {
            "kafka.bootstrap_servers": settings.kafka.bootstrap_servers or "",
            "store.address": settings.store.address or "",
            "triton.url": settings.triton.url or "",
            "triton.control_key": key.get_secret_value() if key else "",
        }
    )


def folder_variables(settings: Settings) -> dict[str, str]:
    """Environment variables that say where state and versions are kept."""
    return variables_of(
        {
            "local.state_dir": settings.local.state_dir,
            "model_repository": settings.model_repository,
        }
    )


def variables_of(chosen: Mapping[str, object]) -> dict[str, str]:
    """Settings by their dotted keys as environment variables."""
    return {variable(key): str(value) for key, value in chosen.items()}


@dataclass(frozen=True)
class SystemUnderTest:
    """A running process and the consumer group whose commits tell its progress."""

    process: subprocess.Popen[bytes]
    progress: "ConsumerProgress"
    log: Path

    def check(self) -> None:
        """Raise ServerError if it has ended."""
        if self.process.poll() is not None:
            end = self.log.read_text(errors="replace")[-2000:]
            raise ServerError(f"it ended with exit code {self.process.returncode}: {end}")


@contextmanager
def run_system(
    settings: Settings,
    arguments: Sequence[str],
    group: str,
    pinned: AbstractContextManager[None] | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[SystemUnderTest]:
    """A Python program on these servers, until the end of the block.

    Args:
        group: its consumer group; `bench-GROUP` is its name.
        pinned: the block in which it is started, which chooses its cores.
    """
    log = settings.local.state_dir / "logs" / f"{group}.log"
    environment = {**os.environ, **worker_variables(settings, group), **(variables or {})}
    with log.open("ab") as output, pinned or nullcontext():
        process = subprocess.Popen(
            [sys.executable, *arguments], env=environment, stdout=output, stderr=output
        )
    try:
        yield SystemUnderTest(process, ConsumerProgress(settings, group), log)
    finally:
        end_process(process)


def end_process(process: subprocess.Popen[bytes]) -> None:
    """Stop a process as an operator would; kill it if it does not listen."""
    process.terminate()
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def worker_variables(settings: Settings, group: str) -> dict[str, str]:
    """The servers and the consumer group, as a worker reads them from its environment."""
    return (
        server_variables(settings)
        | folder_variables(settings)
        | variables_of({"worker.name": f"bench-{group}", "worker.group": group})
    )


class ConsumerProgress:
    """How many messages of the consumed topics a consumer group has committed."""

    def __init__(self, settings: Settings, group: str = "headwater") -> None:
        self._consumer = Consumer(
            client_config(settings.kafka) | {"group.id": group, "log_level": "0"}
        )
        self._partitions = [
            TopicPartition(topic, partition)
            for topic in log_topics()
            for partition in range(settings.kafka.partitions)
        ]

    def count_committed(self) -> int:
        """Messages committed over all topics."""
        for _ in range(_TRIES):
            try:
                places = self._consumer.committed(self._partitions, timeout=_ANSWER_S)
                return sum(max(0, place.offset) for place in places)
            except KafkaException:
                # A broker's first seconds: its coordinator is still being chosen.
                time.sleep(_POLL_S)
        raise ServerError("Kafka does not say what is committed")

    def count_produced(self) -> int:
        """Messages in all topics."""
        return sum(end.offset for end in self._ends())

    def count_lag(self) -> int:
        """Messages in all topics that are not committed."""
        committed = self._consumer.committed(self._partitions, timeout=_ANSWER_S)
        ends = self._ends()
        return sum(
            max(0, end.offset - max(0, place.offset))
            for place, end in zip(committed, ends, strict=True)
        )

    def skip_all(self) -> None:
        """The group, which has no members yet, is to begin after all that was produced so far."""
        self._consumer.commit(offsets=self._ends(), asynchronous=False)

    def wait_for(
        self, messages: int, timeout_s: float, check: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until so many are committed.

        Args:
            check: raises if whoever commits has ended.

        Raises:
            ServerError: it takes too long.
        """
        deadline = time.monotonic() + timeout_s
        while (done := self.count_committed()) < messages:
            check()
            if time.monotonic() > deadline:
                raise ServerError(f"{done} of {messages} messages handled after {timeout_s:.0f} s")
            time.sleep(_POLL_S)

    def _ends(self) -> list[TopicPartition]:
        return [
            TopicPartition(place.topic, place.partition, self._end_of(place))
            for place in self._partitions
        ]

    def _end_of(self, place: TopicPartition) -> int:
        end: int = self._consumer.get_watermark_offsets(place, timeout=_ANSWER_S)[1]
        return end
