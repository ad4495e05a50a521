"""The documented way: a Faust agent that handles one event after another.

For each event it asks Feast for the features (`get_online_features`), lets the event change the
rows by the same functions as Headwater's worker, pushes both rows to Feast (`push`), asks Triton
for this one person, and awaits the `send` of the recommendation, as Feast's and Faust's own
documentation show it. Everything it could be spared is spared: the model, its trends and the
vocabulary are read once, events are decoded by msgspec, the catalogue is kept at hand.

Run by `bench.loop`: python -m bench.loop.one_at_a_time FEATURE_REPO VERSION VOCABULARY
"""

# As a user of Feast does: before Headwater's own lighter import of it, which also makes its calls
# quicker, since nothing of it is checked by typeguard then.
import feast

# isort: split

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import faust
import pandas as pd  # type: ignore[import-untyped]
from faust.types import StreamT
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction, Recommendation, decode, encode
from headwater_client.topics import RECOMMENDATIONS

from bench.loop.parts import read_trending, recommendation
from deploy.settings import Settings, load_settings
from features import inputs
from features.columns import group_from_values, group_values, user_from_values, user_values
from features.kafka import ensure_topics
from features.rows import UserRow, apply_event, apply_item_event, observation
from features.schema import FeatureSchema, read_vocabulary
from features.store import USERS, item_sources
from features.store.redis import RedisRowStore
from features.topics import hash64, source_hash
from stream.inference import InferenceClient, InferenceRequest
from stream.ranking import available_items, rank
from stream.trending import TrendingIndex


@dataclass
class FeastAnswer:
    """What Feast has answered about a person and an item."""

    row: UserRow
    groups: dict[str, list[float] | None]
    categories: tuple[int, ...]


class OneAtATime:
    """Handles one event whole before the next.

    Args:
        repository: Feast's folder.
        version: of the model, with its vocabulary's address.
    """

    def __init__(self, settings: Settings, repository: str, version: int, vocabulary: str) -> None:
        self._settings = settings
        self._schema = FeatureSchema(settings.features)
        self._feast = feast.FeatureStore(repo_path=repository)
        self._version = version
        self._vocabulary = read_vocabulary(vocabulary)
        self._client = InferenceClient(
            settings.triton, inputs.model_inputs(self._schema), inputs.model_outputs(self._schema)
        )
        self._columns = item_sources(settings.kafka.partitions)
        self._features = [
            *(f"user_activity:{name}" for name in USERS.columns),
            *(f"item_popularity:{name}" for name in self._columns),
            "item_catalogue:category",
        ]
        self._trends: TrendingIndex | None = None

    async def handle(
        self, event: Interaction, column: str, source: int, offset: int
    ) -> Recommendation:
        """Let an event change its person's and its item's row, and answer it."""
        answer = self._ask_feast(event)
        seen = observation(event, source, offset, answer.categories)  # type: ignore[arg-type]
        if apply_event(answer.row, seen, self._schema):
            group = group_from_values(answer.groups[column], self._schema)
            apply_item_event(group, seen, self._schema)
            answer.groups[column] = group_values(group)
            self._push("item_popularity_push", {"item_id": event.item_id, **answer.groups})
        # Feast asks for a value of every column, of those too that a row does without.
        values = dict.fromkeys(USERS.columns) | user_values(answer.row)
        self._push("user_activity_push", {"user_id": event.user_id, **values})
        return await self._recommend(event, answer.row)

    def _ask_feast(self, event: Interaction) -> FeastAnswer:
        answer = self._feast.get_online_features(
            features=self._features,
            entity_rows=[{"user_id": event.user_id, "item_id": event.item_id}],
        ).to_dict()
        found = {name: values[0] for name, values in answer.items()}
        return FeastAnswer(
            user_from_values(found, self._schema),
            {name: found[name] for name in self._columns},
            tuple(map(hash64, found["category"] or ())),
        )

    def _push(self, source: str, row: Mapping[str, Any]) -> None:
        # Feast drops what is not newer than it has; an event's own time may well be older.
        frame = pd.DataFrame(
            {name: [value] for name, value in row.items()}
            | {"event_timestamp": [datetime.now(UTC)]}
        )
        self._feast.push(source, frame, to=feast.data_source.PushMode.ONLINE)

    async def _recommend(self, event: Interaction, row: UserRow) -> Recommendation:
        table = self._trends or await self._trend_table()
        worker, times_ms = self._settings.worker, [max(event.timestamp, row.reference_ms)]
        tensors = inputs.model_tensors(
            [row],
            times_ms,
            self._vocabulary,
            self._schema,
            candidates=table.indices[: worker.trending_candidates],
        )
        outputs, _ = await self._client.infer(InferenceRequest(self._version, tensors))
        ranking = rank(outputs, tensors, table, times_ms, 4 * worker.top_k)
        available = dict.fromkeys(ranking.item_ids(), True)
        items = available_items(ranking.user_items(0), available, worker.top_k)
        return recommendation(event, items, self._version, "one-at-a-time")

    async def _trend_table(self) -> TrendingIndex:
        """What trends, read once."""
        store = RedisRowStore(self._settings.store)
        self._trends = await read_trending(self._settings, store, self._vocabulary)
        await store.close()
        return self._trends


def make_app(settings: Settings, handler: OneAtATime) -> faust.App:
    """The Faust app as Faust's documentation has it: an agent, an event at a time."""
    app = faust.App(
        settings.worker.group,
        broker=f"aiokafka://{settings.kafka.bootstrap_servers}",
        store="memory://",
        broker_commit_interval=settings.worker.commit_interval_s,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
    )
    raw: dict[str, Any] = {"key_type": bytes, "value_type": bytes}
    raw |= {"key_serializer": "raw", "value_serializer": "raw"}
    actions, answers = app.topic(*EVENT_TYPES.topics, **raw), app.topic(RECOMMENDATIONS, **raw)
    ids = ensure_topics(settings.kafka)

    @app.agent(actions)
    async def answer(stream: StreamT[bytes]) -> None:
        async for record in stream.events():
            message = record.message
            topic, partition = message.topic, message.partition
            event = decode(EVENT_TYPES.spec_of_topic(topic).struct, message.value)
            source = source_hash(ids[topic], partition)
            column = f"{topic}_{partition}"
            recommendation = await handler.handle(event, column, source, message.offset)
            await answers.send(key=event.user_id.encode(), value=encode(recommendation))

    return app


def main(repository: str, version: str, vocabulary: str) -> None:
    """Run until told to stop."""
    settings = load_settings()
    handler = OneAtATime(settings, repository, int(version), vocabulary)
    app = make_app(settings, handler)
    faust.Worker(app, loglevel="WARN", redirect_stdouts=False).execute_from_commandline()


if __name__ == "__main__":
    main(*sys.argv[1:])
