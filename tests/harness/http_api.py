"""The HTTP API without a socket: its parts over a store in memory, requests as ASGI has them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from headwater_client import EVENT_TYPES, ServerError, contract

from deploy.services.api import DIALECTS
from features.events import EventReader
from features.placements import PlacementTable
from features.schema import FeatureSchema
from features.settings import BrokerSettings, EventSettings, FeatureSettings, StoreSettings
from features.topics import source_hash
from stream.api.answers import Answerer, Batching
from stream.api.http import HttpApi
from stream.api.intake import EventIntake, EventPublisher
from stream.api.keys import KeyRing
from stream.api.parts import ApiParts
from stream.api.readiness import Readiness
from stream.api.service import ApiService
from stream.filtering import FilterableItems
from stream.people import read_attributes, read_people
from stream.placement_follower import PlacementFollower
from stream.recommender import make_recommender
from stream.routing import Routes
from stream.row_updates import RowReader
from stream.segment_rates import EventHorizon, SegmentRates
from stream.settings import ApiSettings, TritonSettings, WorkerConfig, WorkerSettings
from stream.shown import ShownItems, ShownSettings
from stream.together import TogetherTables
from stream.trials import PlacementTrials
from tests.harness.memory_store import MemoryRowStore

CONFIG = WorkerConfig(
    BrokerSettings(bootstrap_servers="127.0.0.1:1", partitions=1),
    StoreSettings(),
    FeatureSettings(),
    TritonSettings(url="127.0.0.1:9"),
    WorkerSettings(top_k=3),
)
SOURCES = {(topic, 0): source_hash(topic, 0) for topic in EVENT_TYPES.topics}
HEADERS = {"content-type": "application/json", "host": "127.0.0.1"}


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return msgspec.json.decode(self.body)


class NoChecks:
    """Health of a service that lacks nothing."""

    def stale_loops(self) -> dict[str, str]:
        return {}

    def missing_parts(self) -> dict[str, str]:
        return {}


class NoController:
    """Trials of placements where no controller answers."""

    async def begin(self, placement: str, *_: object) -> contract.TrialAnswer:
        raise ServerError(f"start {placement}: no controller has answered")

    async def steer(self, placement: str, *_: object) -> contract.TrialAnswer:
        return await self.begin(placement)

    async def read(self, placement: str) -> contract.TrialsAnswer:
        return contract.TrialsAnswer(placement=placement, trials=[])


@dataclass
class OfflineApi:
    """Answers requests where Kafka and Triton are away; the store is in memory."""

    store: MemoryRowStore = field(default_factory=MemoryRowStore)
    keys_file: Path | None = None
    deadline_s: float = 2.0
    max_body_bytes: int = 4096
    items: FilterableItems = field(default_factory=FilterableItems)
    placements: PlacementTable = field(default_factory=PlacementTable)
    trials: PlacementTrials = field(default_factory=PlacementTrials)

    def ask(self, *requests: tuple[str, str, bytes], **headers: str) -> list[HttpAnswer]:
        """The answers to requests: method, path and body of each."""
        return self.run(
            lambda app: asyncio.gather(
                *(ask(app, *request, headers=HEADERS | headers) for request in requests)
            )
        )

    def run(self, work: Callable[[Any], Any]) -> Any:
        async def run() -> Any:
            schema = FeatureSchema(CONFIG.features)
            routes = Routes("m")
            recommender = make_recommender(CONFIG, self.store, routes)  # type: ignore[arg-type]
            rows = RowReader(self.store, schema, recommender.items.catalogue)  # type: ignore[arg-type]
            with closing(EventPublisher(CONFIG.kafka, 0.3)) as publisher:
                batching = Batching(8, 0.005)
                parts = ApiParts(
                    answerer=Answerer(rows, recommender, batching, self.deadline_s),
                    recommender=recommender,
                    items=self.items,
                    placements=self.placements,
                    placement_log=PlacementFollower(CONFIG.kafka),
                    segment_rates=SegmentRates(
                        CONFIG.kafka,
                        EventReader(EventSettings()),
                        schema,
                        partial(read_people, self.store),
                        EventHorizon(100, 60.0),
                    ),
                    shown=ShownItems(self.store, ShownSettings(20, 60.0, 1.0)),  # type: ignore[arg-type]
                    together=TogetherTables(routes, 1.0),
                    trials=self.trials,
                    trial_desk=NoController(),
                    rows=rows,
                    routes=routes,
                    schema=schema,
                    intake=EventIntake(EventSettings()),
                    publisher=publisher,
                    read_attributes=partial(read_attributes, self.store),
                    read_retention=lambda names: dict.fromkeys(names, 86_400_000),
                    sources=SOURCES,
                    top_k=CONFIG.worker.top_k,
                    deadline_s=self.deadline_s,
                )
                readiness = Readiness(NoChecks())
                app = self.make_app(parts, readiness)
                await recommender.start()
                readiness.starting.clear()
                try:
                    return await work(app)
                finally:
                    await recommender.close()

        return asyncio.run(run())

    def make_app(self, parts: ApiParts, readiness: Readiness) -> Any:
        service = ApiService(parts)
        api = HttpApi(service, KeyRing(self.keys_file), readiness, self.max_body_bytes)
        aliases = ApiSettings().event_aliases
        return api.make_app([kind(service, parts, aliases) for kind in DIALECTS])


async def ask(
    app: Any, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = HEADERS
) -> HttpAnswer:
    """One request of an ASGI application."""
    route, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": route,
        "raw_path": route.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)
    start, *parts = sent
    return HttpAnswer(
        start["status"],
        {name.decode(): value.decode() for name, value in start["headers"]},
        b"".join(part.get("body", b"") for part in parts),
    )
