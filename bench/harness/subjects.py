"""What is measured: a process that turns events into recommendations, and how far it has got."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from headwater_client.errors import ServerError
from headwater_client.event_types import EVENT_TYPES
from headwater_client.topics import ITEMS

from bench.harness.cores import Cores
from deploy.settings import Settings
from features.kafka import client_config

HEADWATER = ("-m", "deploy.cli", "worker")
_STOP_S = 20.0
_ANSWER_S = 20.0
_TRIES = 50


@dataclass(frozen=True)
class Subject:
    """A running process and the consumer group whose commits tell its progress."""

    process: subprocess.Popen[bytes]
    progress: Progress
    log: Path

    def check(self) -> None:
        """Raise ServerError if it has ended."""
        if self.process.poll() is not None:
            end = self.log.read_text(errors="replace")[-2000:]
            raise ServerError(f"it ended with exit code {self.process.returncode}: {end}")


@contextmanager
def running(
    settings: Settings,
    arguments: Sequence[str],
    group: str,
    cores: Cores,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Subject]:
    """A Python program on these servers and the shared cores, until the end of the block."""
    log = settings.local.state_dir / "logs" / f"{group}.log"
    variables = {**os.environ, **addresses(settings, group), **(environment or {})}
    with log.open("ab") as output, cores.working():
        process = subprocess.Popen(
            [sys.executable, *arguments], env=variables, stdout=output, stderr=output
        )
    try:
        yield Subject(process, Progress(settings, group), log)
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def addresses(settings: Settings, group: str) -> dict[str, str]:
    """The servers and the consumer group, as a worker reads them from its environment."""
    return {
        "HEADWATER_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers or "",
        "HEADWATER_STORE__ADDRESS": settings.store.address or "",
        "HEADWATER_TRITON__URL": settings.triton.url or "",
        "HEADWATER_LOCAL__STATE_DIR": str(settings.local.state_dir),
        "HEADWATER_WORKER__NAME": f"bench-{group}",
        "HEADWATER_WORKER__GROUP": group,
    }


@dataclass
class Progress:
    """How many messages of the consumed topics a consumer group has committed."""

    settings: Settings
    group: str
    _consumer: Consumer = field(init=False)
    _partitions: list[TopicPartition] = field(init=False)

    def __post_init__(self) -> None:
        config = client_config(self.settings.kafka)
        self._consumer = Consumer(config | {"group.id": self.group, "log_level": "0"})
        self._partitions = [
            TopicPartition(topic, partition)
            for topic in (*EVENT_TYPES.topics, ITEMS)
            for partition in range(self.settings.kafka.partitions)
        ]

    def committed(self) -> int:
        """Messages committed over all topics."""
        for _ in range(_TRIES):
            try:
                found = self._consumer.committed(self._partitions, timeout=_ANSWER_S)
                return sum(max(0, each.offset) for each in found)
            except KafkaException:
                # A broker's first seconds: its coordinator is still being chosen.
                time.sleep(0.2)
        raise ServerError("Kafka does not say what is committed")

    def produced(self) -> int:
        """Messages in all topics."""
        return sum(end.offset for end in self._ends())

    def skip_all(self) -> None:
        """The group, which has no members yet, is to begin after all that was produced so far."""
        self._consumer.commit(offsets=self._ends(), asynchronous=False)

    def wait_for(self, messages: int, subject: Subject, timeout_s: float) -> None:
        """Wait until so many are committed.

        Raises:
            ServerError: the subject has ended, or it takes too long.
        """
        deadline = time.monotonic() + timeout_s
        while (done := self.committed()) < messages:
            subject.check()
            if time.monotonic() > deadline:
                raise ServerError(f"{done} of {messages} messages handled after {timeout_s:.0f} s")
            time.sleep(0.1)

    def _ends(self) -> list[TopicPartition]:
        return [
            TopicPartition(
                each.topic,
                each.partition,
                self._consumer.get_watermark_offsets(each, timeout=_ANSWER_S)[1],
            )
            for each in self._partitions
        ]
