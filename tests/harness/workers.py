"""Worker processes on the real servers: started, killed, stopped, continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from confluent_kafka import Consumer, KafkaException, TopicPartition
from headwater_client.event_types import EVENT_TYPES
from headwater_client.topics import ITEMS
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from deploy.settings import Settings
from features.kafka import client_config

COMMAND = (sys.executable, "-m", "deploy.cli", "worker")
CONSUMED = (*EVENT_TYPES.topics, ITEMS)


def environment(settings: Settings, name: str, **worker: object) -> dict[str, str]:
    """The environment of a worker that uses these servers."""
    extra = {f"HEADWATER_WORKER__{key.upper()}": str(value) for key, value in worker.items()}
    return {
        **os.environ,
        "HEADWATER_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers or "",
        "HEADWATER_STORE__ADDRESS": settings.store.address or "",
        "HEADWATER_TRITON__URL": settings.triton.url or "",
        "HEADWATER_WORKER__NAME": name,
        "HEADWATER_WORKER__SESSION_TIMEOUT_S": "6",
        **extra,
    }


def without_model(settings: Settings) -> Settings:
    """Without a model server: where no version is announced, nobody asks it."""
    away = settings.triton.model_copy(update={"url": "127.0.0.1:9"})
    return settings.model_copy(update={"triton": away})


class WorkerProcess:
    """One worker, started again and again under the same name."""

    def __init__(
        self,
        settings: Settings,
        name: str,
        log: Path,
        command: Sequence[str] = COMMAND,
        **worker: object,
    ) -> None:
        self._command = command
        self._environment = environment(settings, name, **worker)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._environment, stdout=log, stderr=log
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Stop it as an operator would; kill it if it does not listen."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None


@contextmanager
def running(*workers: WorkerProcess) -> Iterator[None]:
    """Start the workers; whatever happens, none outlives the block."""
    try:
        for worker in workers:
            worker.start()
        yield
    finally:
        for worker in workers:
            worker.end()


class Progress:
    """How far the group of workers has committed."""

    def __init__(self, settings: Settings, group: str = "headwater") -> None:
        self._consumer = Consumer(
            client_config(settings.kafka) | {"group.id": group, "log_level": "0"}
        )
        self._partitions = [
            TopicPartition(topic, partition)
            for topic in CONSUMED
            for partition in range(settings.kafka.partitions)
        ]

    # A broker's first seconds: its coordinator is still being chosen.
    @retry(
        retry=retry_if_exception_type(KafkaException),
        wait=wait_fixed(0.2),
        stop=stop_after_delay(20),
    )
    def committed(self) -> int:
        """Messages committed over all topics."""
        found = self._consumer.committed(self._partitions, timeout=20)
        return sum(max(0, each.offset) for each in found)

    def produced(self) -> int:
        """Messages in all topics."""
        return sum(
            self._consumer.get_watermark_offsets(each, timeout=20)[1] for each in self._partitions
        )

    def wait_for_all(self, timeout_s: float, workers: Sequence[WorkerProcess] = ()) -> None:
        """Wait until everything produced is committed; workers that die meanwhile are a failure."""
        deadline = time.monotonic() + timeout_s
        while self.committed() < self.produced():
            for worker in workers:
                assert worker.running, worker.log.read_text()[-2000:]
            assert time.monotonic() < deadline, f"{self.committed()} of {self.produced()} committed"
            time.sleep(0.2)

    def wait_for(self, messages: int, timeout_s: float) -> None:
        """Wait until so many messages are committed."""
        deadline = time.monotonic() + timeout_s
        while self.committed() < messages:
            assert time.monotonic() < deadline, f"{self.committed()} of {messages} committed"
            time.sleep(0.05)
