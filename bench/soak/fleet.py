"""The fleet of a soak: its servers and processes, who starts them again, and how each is struck."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient
from headwater_client.errors import HeadwaterError
from headwater_client.topics import PARTITIONER, RECOMMENDATIONS
from redis import Redis

from bench.harness import processes
from bench.harness.disks import Disk, can_mount
from bench.harness.hostile import generate_hostile_messages
from bench.soak.plan import Fault, FaultKind
from bench.soak.proxy import FaultyProxy
from deploy import local
from deploy.local.process import StateFolder
from deploy.settings import Settings
from features.kafka import client_config, ensure_topics, topic_ids
from features.topics import list_topics

_LOOK_S = 0.5
# An orchestrator's pause before it starts again what has ended, doubled each time.
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 8.0
# What ends so often, each time within a minute, goes round in a loop.
_LOOP, _LIVED_S = 10, 60.0
_END_S = 40.0
_SLOW_S = 0.05
_LATER_S = 10.0
_POISON = 200
_DISK_BYTES = {"store": 4 << 30, "windows": 512 << 20}
_OVERWRITTEN = "overwritten"


class Service:
    """A process of ours, started again and again under the same name.

    Attributes:
        ended: how often it ended by itself, by exit code.
        looped: whether it ended again and again, without a minute's life in between.
        held: whether somebody has stopped it, and starts it again.
    """

    def __init__(
        self, name: str, command: Sequence[str], variables: Mapping[str, str], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self.ended: Counter[int] = Counter()
        self.looped = False
        self.held = False
        self._command = (sys.executable, "-m", "deploy.cli", *command)
        self._variables = {**os.environ, **variables}
        self._process: subprocess.Popen[bytes] | None = None
        self._in_a_row = 0
        self._started_s = self._due_s = 0.0

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, env=self._variables, stdout=log, stderr=log
            )
        self._started_s, self._due_s = time.monotonic(), 0.0

    def send_signal(self, number: int) -> None:
        """Send a signal, if it runs."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)
        if self._process:
            self._process.wait()

    def end(self) -> None:
        """Stop it as an operator would; kill it if it does not listen."""
        self.send_signal(signal.SIGCONT)
        self.send_signal(signal.SIGTERM)
        if self._process:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self.ended[-1] += 1
                self.kill()

    def supervise(self) -> None:
        """Start it again if it has ended by itself, a while later."""
        if self.held or self._process is None or self._process.poll() is None:
            return
        now = time.monotonic()
        if not self._due_s:
            self.ended[self._process.returncode] += 1
            quick = now - self._started_s < _LIVED_S
            self._in_a_row = self._in_a_row + 1 if quick else 1
            self.looped |= self._in_a_row >= _LOOP
            self._due_s = now + min(_PAUSE_S * 2**self._in_a_row, _LONGEST_PAUSE_S)
        elif now >= self._due_s:
            self.start()


@dataclass
class Fleet:
    """Servers and processes, and what can be done to them.

    Attributes:
        wanted: settings without addresses, by which a server is started again.
        settings: with the addresses of the servers themselves.
        services: by name.
        extra: a worker that comes for a while.
        clocks: by service, the file that says how far its clock is ahead.
        sending: cleared while no events are to be sent.
        before_remake: called when all is settled and a topic is about to be deleted.
        committed, lag: messages, as of the last look.
    """

    wanted: Settings
    settings: Settings
    services: Mapping[str, Service]
    extra: Service
    proxies: Mapping[str, FaultyProxy]
    disks: Mapping[str, Disk]
    clocks: Mapping[str, Path]
    group: str
    before_remake: Callable[[str], None] = print
    sending: threading.Event = field(default_factory=threading.Event)
    committed: int = 0
    lag: int = 0
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def run(self) -> Iterator[None]:
        """Start the processes, and start again what ends, until the end of the block."""
        watchers = [
            threading.Thread(target=self._supervise, name="soak-supervisor"),
            threading.Thread(target=self._look, name="soak-progress"),
        ]
        self.sending.set()
        try:
            for service in self.services.values():
                service.start()
            for watcher in watchers:
                watcher.start()
            yield
        finally:
            self._ended.set()
            for watcher in watchers:
                watcher.join()
            for service in (*self.services.values(), self.extra):
                service.held = True
                service.end()

    def _supervise(self) -> None:
        while not self._ended.wait(_LOOK_S):
            for service in self.services.values():
                service.supervise()

    def _look(self) -> None:
        progress = processes.ConsumerProgress(self.settings, self.group)
        while not self._ended.wait(_LOOK_S):
            # Kafka may be away.
            with suppress(KafkaException, HeadwaterError):
                self.committed, self.lag = progress.count_committed(), progress.count_lag()

    def workers(self) -> list[Service]:
        """Those of the services that are workers."""
        return [each for name, each in self.services.items() if name.startswith("worker")]

    def strike(self, fault: Fault) -> None:
        """Carry a fault out; returns once it is over."""
        match fault.kind:
            case FaultKind.KILL | FaultKind.STOP | FaultKind.RESTART:
                if service := self.services.get(fault.target):
                    self._strike_service(service, fault)
                else:
                    self._strike_server(fault)
            case FaultKind.POISON:
                self._send_hostile(fault)
            case FaultKind.FLUSH:
                self._flush()
            case FaultKind.RESTORE:
                self._restore()
            case FaultKind.REMAKE:
                self._remake(fault.target)
            case FaultKind.CUT:
                self.proxies[fault.target].cut()
            case FaultKind.CLOCK:
                self.clocks[fault.target].write_text(str(fault.for_s))
            case _:
                with self._lasting(fault):
                    time.sleep(fault.for_s)

    def _lasting(self, fault: Fault) -> AbstractContextManager[object]:
        """The block in which a fault lasts."""
        match fault.kind:
            case FaultKind.SLOW:
                return self.proxies[fault.target].delay(_SLOW_S, fault.inwards)
            case FaultKind.HOLD:
                return self.proxies[fault.target].hold(fault.inwards)
            case FaultKind.FULL_DISK:
                return self.disks[fault.target].fill()
            case FaultKind.REBALANCE:
                return self._with_one_more()
            case _:
                return take_away(self.wanted, fault.target)

    @contextmanager
    def _with_one_more(self) -> Iterator[None]:
        self.extra.start()
        try:
            yield
        finally:
            self.extra.end()

    def _strike_service(self, service: Service, fault: Fault) -> None:
        if fault.kind is FaultKind.STOP:
            service.send_signal(signal.SIGSTOP)
            time.sleep(fault.for_s)
            service.send_signal(signal.SIGCONT)
            return
        with hold(service):
            if fault.kind is FaultKind.KILL:
                service.kill()
            else:
                service.end()
            service.start()

    def _strike_server(self, fault: Fault) -> None:
        if fault.kind is FaultKind.RESTART:
            local.down(self.wanted, only=[fault.target])
        else:
            pid = StateFolder(self.wanted.local.state_dir).records()[fault.target].process.pid
            os.kill(pid, signal.SIGKILL if fault.kind is FaultKind.KILL else signal.SIGSTOP)
            if fault.kind is FaultKind.STOP:
                time.sleep(fault.for_s)
                os.kill(pid, signal.SIGCONT)
        local.up(self.wanted, only=[fault.target])

    def _send_hostile(self, fault: Fault) -> None:
        producer = Producer(
            {**client_config(self.settings.kafka), "partitioner": PARTITIONER, "log_level": "0"}
        )
        messages = generate_hostile_messages(
            fault.at_event, int(time.time() * 1000), large_share=0.02
        )
        for _, (topic, key, value) in zip(range(_POISON), messages, strict=False):
            # Answers are read in the end: those of ours only.
            if topic != RECOMMENDATIONS:
                producer.produce(topic, value, key)
                producer.poll(0)
        producer.flush(_END_S)

    def _flush(self) -> None:
        """Empty the store while workers write, and do then what they say."""
        with Redis(*self.settings.store.nodes[0]) as store:
            store.flushall()
            deadline = time.monotonic() + _END_S
            while not store.hexists("headwater:positions", _OVERWRITTEN):
                if time.monotonic() > deadline:
                    break
                time.sleep(_LOOK_S)
            with hold(*self.workers()), self._stop_workers():
                store.flushall()

    def _restore(self) -> None:
        """Put the store back from a copy that lacks the last seconds, while nobody runs."""
        with Redis(*self.settings.store.nodes[0]) as store, hold(*self.workers()):
            # As a snapshot is: of one moment, at which no row is written.
            with self._stop_workers():
                copy: dict[bytes, Any] = {key: store.dump(key) for key in store.scan_iter()}
            time.sleep(_LATER_S)
            with self._stop_workers():
                store.flushall()
                for key, value in copy.items():
                    if value is not None:
                        store.restore(key, 0, value, replace=True)

    @contextmanager
    def _stop_workers(self) -> Iterator[None]:
        for worker in self.workers():
            worker.end()
        try:
            yield
        finally:
            for worker in self.workers():
                worker.start()

    def _remake(self, topic: str) -> None:
        """Delete a topic and make it anew, once all of it is in rows and windows."""
        self.sending.clear()
        try:
            self.before_remake(topic)
            admin = AdminClient({**client_config(self.settings.kafka)})
            for deletion in admin.delete_topics([topic]).values():
                deletion.result()
            deadline = time.monotonic() + _END_S
            while topic_ids(self.settings.kafka, [topic]) and time.monotonic() < deadline:
                time.sleep(0.1)
            ensure_topics(self.settings.kafka, [t for t in list_topics() if t.name == topic])
            # Longer than workers and windows look away.
            time.sleep(_LOOK_S * 16)
        finally:
            self.sending.set()


@contextmanager
def hold(*services: Service) -> Iterator[None]:
    """Nobody else starts these, in the block."""
    for service in services:
        service.held = True
    try:
        yield
    finally:
        for service in services:
            service.held = False


@contextmanager
def mount_disks(state_dir: Path) -> Iterator[dict[str, Disk]]:
    """Disks of the store and of windows, in the block; none where this user may not mount."""
    folders = {name: Disk(state_dir / name, size) for name, size in _DISK_BYTES.items()}
    with ExitStack() as stack:
        if not can_mount(state_dir):
            folders = {}
        for disk in folders.values():
            stack.enter_context(disk.mount())
        yield folders


@contextmanager
def take_away(wanted: Settings, server: str) -> Iterator[None]:
    """A server is stopped in the block, and started again after."""
    local.down(wanted, only=[server])
    try:
        yield
    finally:
        local.up(wanted, only=[server])
