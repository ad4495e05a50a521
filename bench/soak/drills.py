"""Faults that alerts are to tell of: a system that runs, and what is done to it.

Each is a block in which the fault lasts, and is put right at its end.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource  # type: ignore[attr-defined]  # public, but not to its types
from headwater_client.contract import Scope
from headwater_client.topics import DEAD_LETTERS, ROLLOUTS
from redis import Redis

from bench.harness import processes
from bench.soak.fleet import Service, hold, take_away
from bench.soak.visitors import PEOPLE, Visitors, pack
from deploy import local
from deploy.jobs.train import load_candidate, model_registry
from deploy.local.process import StateFolder, free_port
from deploy.rollout import CommandRequest, RolloutSettings, sign_command
from deploy.rollout.topic import send_command
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.kafka import client_config
from features.rollout_messages import RolloutAction
from features.settings import DAY_MS
from stream.api.keys import make_key, write_keys
from trainer.datasets import Log
from trainer.network import TrainedModel
from trainer.registry import ModelVersion
from trainer.settings import TrainerSettings

TRAINING = TrainerSettings(max_seconds=3.0, language_model="")
_ROLLOUT = RolloutSettings.model_validate(
    {"admin_token": "for this drill", "steps": (0.5,), "shadow_s": 1, "min_step_s": 3600}
)
_TRAINER_FILE = '[trainer]\nlanguage_model = ""\n'
_POLL_S = 0.5
_CANARY_S = 10.0


@dataclass(frozen=True)
class Drill:
    """A fault, and the alerts that must fire on it.

    Attributes:
        inject: the block in which it lasts.
    """

    fault: str
    alerts: frozenset[str]
    inject: Callable[[], AbstractContextManager[None]]


@dataclass
class DrillGround:
    """Servers and processes, and what is done to them.

    Attributes:
        wanted: settings without addresses, by which a server is started again.
        settings: with the addresses.
        trained: the live version, and each canary.
        targets: where each job tells its metrics.
    """

    wanted: Settings
    settings: Settings
    trained: TrainedModel
    services: Mapping[str, Service]
    targets: Mapping[str, list[str]]
    people: Visitors
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def run(self) -> Iterator[None]:
        """Processes and people, until the end of the block."""
        supervisor = threading.Thread(target=self._supervise, daemon=True)
        try:
            for service in self.services.values():
                service.start()
            supervisor.start()
            with self.people.run():
                yield
        finally:
            self._ended.set()
            supervisor.join()
            for service in self.services.values():
                service.held = True
                service.end()

    def _supervise(self) -> None:
        while not self._ended.wait(_POLL_S):
            for service in self.services.values():
                service.supervise()

    def list_drills(self) -> list[Drill]:
        """One for each fault; each alert is in one."""
        people = self.people
        listed: list[tuple[str, str, Callable[[], AbstractContextManager[None]]]] = [
            ("a trainer is gone", "ProcessDown", lambda: self._gone("trainer")),
            ("one click in six is no event", "DeadLetters", lambda: self._bad(_make_no_event)),
            (
                "the dead-letter topic takes nothing",
                "DeadLettersLost",
                self._lose_letters,
            ),
            (
                "one clock in six is a day ahead",
                "WrongClocks",
                lambda: self._bad(lambda n: pack(people.make_click(n, f"ahead-{n}", DAY_MS))),
            ),
            (
                "ids are used for other clicks",
                "EventIdsUsedTwice",
                lambda: self._bad(lambda n: pack(people.make_click(n + PEOPLE, f"drill-{n}"))),
            ),
            ("rows are overwritten", "DamagedRows", self._damage_rows),
            ("a list with nothing in it is asked for", "ShortLists", self._ask_for_nothing),
            ("somebody writes to rollouts", "MessagesRefused", self._write_rollouts),
            ("a canary is rolled back", "RolledBack", self._roll_back),
            ("a canary without a controller", "RolloutNotWatched", self._leave_canary),
            ("Triton hangs", "Fallbacks VariantFails ApiLate", self._hang_triton),
            ("the store is gone", "ServerAway ApiErrors", lambda: take_away(self.wanted, "store")),
            ("the store does not write its file", "NothingCommitted", self._stop_fsync),
            ("Kafka is gone", "NoLeader TrainerHeldUp", lambda: take_away(self.wanted, "kafka")),
            (
                "a version's files are gone, and all starts again",
                "NoVersionRouted VersionNotServed",
                self._lose_version,
            ),
            ("a crowd clicks at once", "RowsLate", self._bring_crowd),
        ]
        return [
            Drill(fault, frozenset(f"Headwater{name}" for name in alerts.split()), inject)
            for fault, alerts, inject in listed
        ]

    @contextmanager
    def _gone(self, *names: str) -> Iterator[None]:
        services = [self.services[name] for name in names]
        with hold(*services):
            for service in services:
                service.kill()
            try:
                yield
            finally:
                for service in services:
                    service.start()

    @contextmanager
    def _bad(self, make: Callable[[int], tuple[bytes, bytes]]) -> Iterator[None]:
        self.people.bad_events = make
        try:
            yield
        finally:
            self.people.bad_events = lambda _: None

    @contextmanager
    def _lose_letters(self) -> Iterator[None]:
        self._set_largest(DEAD_LETTERS, "64")
        try:
            with self._bad(_make_no_event):
                yield
        finally:
            self._set_largest(DEAD_LETTERS, "1048588")

    def _set_largest(self, topic: str, largest: str) -> None:
        entry = ConfigEntry(
            "max.message.bytes", largest, incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource("topic", topic, incremental_configs=[entry])
        admin = AdminClient({**client_config(self.settings.kafka)})
        for change in admin.incremental_alter_configs([resource]).values():
            change.result()

    @contextmanager
    def _damage_rows(self) -> Iterator[None]:
        with Redis(*self.settings.store.nodes[0]) as store:
            for key in store.scan_iter(_type="hash"):
                if b"drill-p1" in key:
                    fields = cast("list[bytes]", store.hkeys(key))
                    store.hset(key, mapping=dict.fromkeys(fields, b"\xff" * 9))
        yield

    @contextmanager
    def _ask_for_nothing(self) -> Iterator[None]:
        self.people.limits = {"filter": 'category == "there is none"'}
        try:
            yield
        finally:
            self.people.limits = {}

    @contextmanager
    def _write_rollouts(self) -> Iterator[None]:
        self.people.send(ROLLOUTS, MODEL_NAME.encode(), b"not a rollout")
        yield

    @contextmanager
    def _roll_back(self) -> Iterator[None]:
        version = self._start_canary()
        time.sleep(_CANARY_S)
        self._command(RolloutAction.ROLLBACK, version)
        yield

    @contextmanager
    def _leave_canary(self) -> Iterator[None]:
        version = self._start_canary()
        time.sleep(_CANARY_S)
        with self._gone("controller-1", "controller-2"):
            yield
        time.sleep(_CANARY_S)
        self._command(RolloutAction.ROLLBACK, version)

    def _start_canary(self) -> ModelVersion:
        with closing(model_registry(self.settings, TRAINING)) as registry:
            version = registry.write_version(self.trained)
        load_candidate(self.settings, version.number)
        self._command(RolloutAction.START, version)
        return version

    def _command(self, action: RolloutAction, version: ModelVersion) -> None:
        request = CommandRequest(
            MODEL_NAME, action, "drill", "a drill", version.number, version.address
        )
        send_command(self.settings.kafka, sign_command(_ROLLOUT, request))

    @contextmanager
    def _hang_triton(self) -> Iterator[None]:
        pid = StateFolder(self.wanted.local.state_dir).records()["triton"].process.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def _stop_fsync(self) -> Iterator[None]:
        with Redis(*self.settings.store.nodes[0]) as store:
            before = cast("dict[str, str]", store.config_get("appendfsync"))["appendfsync"]
            store.config_set("appendfsync", "no")
            try:
                yield
            finally:
                store.config_set("appendfsync", before)

    @contextmanager
    def _lose_version(self) -> Iterator[None]:
        folder = self.settings.model_repository / MODEL_NAME / "1"
        away = folder.with_name("away")
        folder.rename(away)
        try:
            local.down(self.wanted, only=["triton"])
            local.up(self.wanted, only=["triton"])
            with self._gone("worker"):
                pass
            yield
        finally:
            away.rename(folder)

    @contextmanager
    def _bring_crowd(self) -> Iterator[None]:
        self.people.crowd()
        yield


def _make_no_event(number: int) -> tuple[bytes, bytes]:
    return f"drill-p{number % PEOPLE}".encode(), b"{}"


def lay_out(
    wanted: Settings, settings: Settings, log: Log, trained: TrainedModel
) -> tuple[DrillGround, Path]:
    """The processes, which do not run yet, and a file with the key of who asks."""
    folder = settings.local.state_dir
    secret, key = make_key("drill", [Scope.ASK, Scope.READ_PEOPLE], None)
    keys_file, key_file = folder / "keys.toml", folder / "key.txt"
    write_keys(keys_file, [key])
    key_file.write_text(secret)
    config = folder / "headwater.toml"
    config.write_text(_TRAINER_FILE)
    ports: dict[str, int] = {}
    for name in ("worker", "trainer", "controller-1", "controller-2", "api"):
        ports[name] = free_port(ports.values())
    shared = {
        "windows.address": folder / "windows",
        "api.port": ports["api"],
        "api.keys_file": keys_file,
        **{
            f"rollout.{name}": json.dumps(value)
            for name, value in _ROLLOUT.model_dump(mode="json", exclude_unset=True).items()
        },
        "rollout.admin_token": "for this drill",
    }
    sections = {"worker": "worker", "trainer": "trainer", "controller": "rollout"}

    def make(name: str) -> Service:
        command = name.partition("-")[0]
        port = {f"{sections[command]}.metrics_port": ports[name]} if command in sections else {}
        variables = processes.worker_variables(settings, "drill")
        variables |= processes.variables_of(shared | port)
        variables["HEADWATER_CONFIG"] = str(config)
        return Service(name, [command], variables, folder / "logs" / f"{name}.log")

    targets: dict[str, list[str]] = {}
    for name, port in ports.items():
        job = f"headwater-{name.partition('-')[0]}"
        targets.setdefault(job, []).append(f"127.0.0.1:{port}")
    people = Visitors(settings, log, f"http://127.0.0.1:{ports['api']}", secret)
    services = {name: make(name) for name in ports}
    return DrillGround(wanted, settings, trained, services, targets, people), key_file
