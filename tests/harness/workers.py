"""Worker processes on the real servers: started, killed, stopped, continued."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.harness.processes import ConsumerProgress, end_process, server_variables, variables_of
from deploy.settings import Settings
from features.settings import Durability

COMMAND = (sys.executable, "-m", "deploy.cli", "worker")


def environment(settings: Settings, name: str, **worker: object) -> dict[str, str]:
    """The environment of a worker that uses these servers."""
    chosen = {"name": name, "session_timeout_s": 6, "commit_interval_s": 0.2} | worker
    own = {f"worker.{key}": value for key, value in chosen.items()}
    own["store.durability"] = settings.store.durability.value
    return {**os.environ, **server_variables(settings), **variables_of(own)}


def without_disk(settings: Settings) -> Settings:
    """Offsets are committed before rows are on disk, for which a worker waits a second or two.

    Where no store is killed, nothing hangs on it.
    """
    store = settings.store.model_copy(update={"durability": Durability.ACKNOWLEDGED})
    return settings.model_copy(update={"store": store})


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
        end_process(self.process)

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


class WorkerProgress(ConsumerProgress):
    """How far the group of workers has committed."""

    def wait_for_all(self, timeout_s: float, workers: Sequence[WorkerProcess] = ()) -> None:
        """Wait until everything produced is committed; workers that die meanwhile are a failure."""

        def check() -> None:
            for worker in workers:
                assert worker.running, worker.log.read_text()[-2000:]

        # Offsets only grow: what is produced meanwhile is waited for by the next look.
        while self.count_committed() < (produced := self.count_produced()):
            self.wait_for(produced, timeout_s, check)
