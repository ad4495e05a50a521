"""The HTTP API as a process on real servers, with a worker beside it, and a caller with a key."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headwater_client import EVENT_TYPES, EventProducer
from headwater_client.contract import Scope
from headwater_client.event_types import OwnEventType

from bench.harness.processes import folder_variables, variables_of
from deploy import local
from deploy.jobs.train import model_registry
from deploy.local.process import free_port
from deploy.settings import Settings
from deploy.settings_text import variable
from features.kafka import ensure_topics
from features.schema import FeatureSchema
from stream.api.keys import make_key, write_keys
from tests.harness.http_process import call_json, running_service
from tests.harness.models import ITEMS, SETTINGS, untrained
from tests.harness.rollouts import TOKEN
from tests.harness.servers import state_in
from tests.harness.workers import WorkerProcess, WorkerProgress, environment, running

DEADLINE_MS = 1500
# As an `[[events.types]]` of the settings says them.
OWN_TYPES = (
    OwnEventType("wishlist", weight=2.0),
    OwnEventType("complaint", topic="complaints", negative=True),
    OwnEventType("search", takes_item=False),
)


@contextmanager
def own_event_types() -> Iterator[None]:
    """Types of the settings, in this process and in those that it starts."""
    name, told = variable("events.types"), [asdict(each) for each in OWN_TYPES]
    os.environ[name] = json.dumps(told)
    EVENT_TYPES.set_own(OWN_TYPES)
    try:
        yield
    finally:
        EVENT_TYPES.set_own([])
        del os.environ[name]


@dataclass
class Service:
    """The service as a process, a worker beside it, and callers with keys.

    The key `slow_secret` may ask once a second; `ask_secret` may do nothing but ask for lists.
    """

    local: Settings
    settings: Settings
    worker: WorkerProcess
    process: subprocess.Popen[bytes]
    log: Path
    url: str
    secret: str
    slow_secret: str
    ask_secret: str
    grpc_address: str

    def call(self, method: str, path: str, body: Any = None, secret: str | None = None) -> Any:
        """Status and document of an answer."""
        sent = self.secret if secret is None else secret
        return call_json(self.url + path, method, body, sent)

    def take(self, method: str, path: str, body: Any = None) -> Any:
        """The document of an answer that has to be one."""
        status, document = self.call(method, path, body)
        assert status == 200, document
        return document

    def is_on_sale(self, item_id: str) -> bool:
        """Whether the catalogue has an item as available."""
        query = {"filter": f"item.id == '{item_id}'"}
        return bool(self.take("POST", "/v1/recommendations", query)["items"])

    def clicks(self, person: str) -> float:
        """Clicks that the stored row of a person has counted."""
        status, document = self.call("GET", f"/v1/people/{person}")
        assert status in (200, 404), document
        return document["counters"]["click"]["all"] if status == 200 else 0.0


@contextmanager
def serving_api(folder: Path) -> Iterator[Service]:
    """The service, with an untrained version, all items in the catalogue, and a key for all."""
    with own_event_types(), state_in(folder / "state") as own:
        settings = local.up(own)
        ensure_topics(settings.kafka)
        with closing(model_registry(settings, SETTINGS)) as registry:
            registry.publish(untrained(FeatureSchema(settings.features), 1))
        worker = WorkerProcess(settings, "api", folder / "worker.log", catalogue_refresh_s=0.5)
        with running(worker):
            with EventProducer(settings.kafka.client_settings, {"log_level": 0}) as producer:
                for name in (f"i{number}" for number in range(ITEMS)):
                    producer.item(name, title=f"Item {name}", category=[category_of(name)])
            WorkerProgress(settings).wait_for_all(60, [worker])
            with _started(own, settings, worker, folder) as service:
                yield service


@contextmanager
def _started(
    own: Settings, settings: Settings, worker: WorkerProcess, folder: Path
) -> Iterator[Service]:
    secret, key = make_key("test", list(Scope), None)
    slow_secret, slow = make_key("slow", list(Scope), 1.0)
    ask_secret, ask = make_key("ask", [Scope.ASK], None)
    write_keys(folder / "keys.toml", [key, slow, ask])
    port = free_port([])
    grpc_port = free_port([port])
    chosen = {
        "api.port": port,
        "api.grpc_port": grpc_port,
        "api.keys_file": folder / "keys.toml",
        "api.deadline_ms": DEADLINE_MS,
        "worker.catalogue_refresh_s": 0.5,
        "worker.trends_refresh_s": 0.5,
        "rollout.admin_token": TOKEN,
    }
    variables = environment(settings, "api") | folder_variables(settings) | variables_of(chosen)
    with running_service("api", port, variables, folder, "/readyz") as running_api:
        yield Service(
            local=own,
            settings=settings,
            worker=worker,
            process=running_api.process,
            log=running_api.log,
            url=running_api.url,
            secret=secret,
            slow_secret=slow_secret,
            ask_secret=ask_secret,
            grpc_address=f"127.0.0.1:{grpc_port}",
        )


def category_of(item_id: str) -> str:
    return f"c{int(item_id[1:]) % 5}"


def pid_of(service: Service, name: str) -> int:
    (pid,) = (each.pid for each in local.status(service.local) if each.name == name)
    assert pid
    return pid
