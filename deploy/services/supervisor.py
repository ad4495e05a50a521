"""Keeps a command running, as a service manager does in production.

Its logs are structured: one event a line; colours for people, JSON for everything else.
"""

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Event

import structlog
from headwater_client.errors import ServerError

from deploy.services.telemetry import add_trace
from deploy.settings import Settings
from deploy.settings_text import other_variables, variable
from deploy.signals import leave

_STOP_S = 20.0
_MOST_STARTS = 10
_GC_OBJECTS = 20_000
Warn = Callable[[str], None]


def environment(settings: Settings) -> dict[str, str]:
    """The environment of this process, with what these settings have found out or been given."""
    key = settings.triton.control_key
    windows = settings.windows.model_dump(mode="json") | {"address": settings.windows_address}
    token = settings.rollout.admin_token
    secret = token.get_secret_value() if token else None
    rollout = settings.rollout.model_dump(mode="json") | {"admin_token": secret}
    found = {
        "kafka.bootstrap_servers": settings.kafka.bootstrap_servers,
        "store.address": settings.store.address,
        "triton.url": settings.triton.url,
        "triton.control_key": key.get_secret_value() if key else None,
        "console.port": settings.console.port,
        "worker.metrics_port": settings.worker.metrics_port,
        "local.state_dir": settings.local.state_dir,
        "model_repository": settings.model_repository,
        "trainer.release": settings.trainer.release.value,
        **{f"windows.{name}": value for name, value in windows.items()},
        **{f"rollout.{name}": value for name, value in rollout.items()},
    }
    replaced = {other for key in found for other in other_variables(Settings, key)}
    inherited = {name: value for name, value in os.environ.items() if name not in replaced}
    return {**inherited, **_variables(found)}


def _variables(found: Mapping[str, object]) -> dict[str, str]:
    return {variable(key): "" if value is None else str(value) for key, value in found.items()}


@contextmanager
def supervise(
    command: str, settings: Settings, log: Path, warn: Warn
) -> Iterator[Callable[[], None]]:
    """Run a `headwater` command for as long as the block; one that ends is started again.

    Args:
        command: `worker`, `trainer`, `controller` or `console`.
        log: where its output goes.
        warn: told when it had to be started again.

    Yields:
        A check to call now and then.

    Raises:
        ServerError: from the check, when it has ended too often.
    """
    supervisor = _Supervisor(command, settings, log, warn)
    watching = threading.Thread(target=supervisor.watch, daemon=True)
    watching.start()
    try:
        yield supervisor.check
    finally:
        supervisor.end()
        watching.join()


class _Supervisor:
    def __init__(self, command: str, settings: Settings, log: Path, warn: Warn) -> None:
        self._command = command
        self._environment = environment(settings)
        self._log = log
        self._warn = warn
        self._ending = threading.Event()
        # None is started once the end has begun.
        self._starting = threading.Lock()
        self._starts = 0
        self._failure: OSError | None = None
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._starts += 1
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            return subprocess.Popen(
                (sys.executable, "-m", "deploy.cli", self._command),
                env=self._environment,
                stdout=log,
                stderr=log,
                # Ctrl-C is for this process, which then ends the worker in good order.
                start_new_session=True,
            )

    def watch(self) -> None:
        while True:
            code = self._process.wait()
            if self._ending.is_set() or self._starts >= _MOST_STARTS:
                return
            self._warn(
                f"the {self._command} ended with exit code {code}, started again: see {self._log}"
            )
            self._ending.wait(1.0)
            with self._starting:
                if self._ending.is_set():
                    return
                try:
                    self._process = self._start()
                except OSError as error:
                    self._failure = error
                    return

    def check(self) -> None:
        if self._failure is not None:
            raise ServerError(f"the {self._command} cannot be started again: {self._failure}")
        if self._starts >= _MOST_STARTS and self._process.poll() is not None:
            raise ServerError(f"the {self._command} ended {self._starts} times: see {self._log}")

    def end(self) -> None:
        with self._starting:
            self._ending.set()
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


# Ends a command in good order.


END_S = 25.0
"""Kubernetes kills 30 s after it has asked a process to end."""


class StopSignal(Event):
    """Set by Ctrl-C and SIGTERM. What hangs on the way is ended by force a little later."""

    def __init__(self) -> None:
        super().__init__()
        self._interrupts = False

    def take(self, *_: object) -> None:
        """Handle the signal."""
        if not self.is_set():
            end_by_force(END_S)
        self.set()
        if self._interrupts:
            leave(0)

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """In the block the signal ends the process at once, as it may end it in any other way.

        For what takes minutes and leaves nothing half-done wherever it ends.
        """
        self._interrupts = True
        try:
            if self.is_set():
                sys.exit(0)
            yield
        finally:
            self._interrupts = False


def relax_collector() -> None:
    """Let Python look for cycles of objects seldom, and not among what is there by now.

    What is imported stays: a full collection would stop an event loop for 100 ms. A batch and a
    request make thousands of objects and hardly a cycle: Python would look for one every 700.
    """
    gc.freeze()
    gc.set_threshold(_GC_OBJECTS)


def end_by_force(after_s: float) -> None:
    """End this process after so long, whatever it waits for. What it left open is done again."""

    def end() -> None:
        structlog.get_logger().warning("ended_by_force", after_s=after_s)
        sys.stderr.flush()
        os._exit(0)

    timer = threading.Timer(after_s, end)
    timer.daemon = True
    timer.start()


@contextmanager
def graceful_shutdown() -> Iterator[StopSignal]:
    """An event that Ctrl-C and SIGTERM set, so that what is being written is written whole."""
    stop = StopSignal()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(each, stop.take) for each in numbers]
    try:
        yield stop
    finally:
        for each, handler in zip(numbers, before, strict=True):
            signal.signal(each, handler)


def configure_logs(*, only_warnings: bool = False) -> None:
    """Send Headwater's events, and what libraries warn of, to standard error.

    Args:
        only_warnings: of a command that tells people itself what it does.
    """
    people = sys.stderr.isatty()
    structlog.configure(
        processors=[
            add_trace,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if people else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.WARNING if only_warnings else logging.NOTSET
        ),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(name)s %(message)s")
