"""The public interface as an AsyncAPI document, made from the event contract."""

from typing import Any

import msgspec
from headwater_client import topics
from headwater_client.admin.audit import AuditEntry
from headwater_client.contract import PlacementRules, SegmentRules
from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import DeadLetter, Item, PersonAttributes, Recommendation
from headwater_client.identities import Erased, Erasure, HandOver, Merge, SentOn

from features import rollout_messages
from features.topics import Topic, list_topics

VERSION = "1.0.0"
Channels = dict[str, tuple[str, dict[type[msgspec.Struct], str]]]
"""By topic: whether Headwater receives or sends, and the messages with their keys."""

_OTHER_CHANNELS: Channels = {
    topics.ITEMS: ("receive", {Item: "item_id; a tombstone (no value) removes the item"}),
    topics.PEOPLE: ("receive", {PersonAttributes: "user_id; a tombstone (no value) removes them"}),
    topics.IDENTITIES: (
        "receive",
        {
            Merge: "guest",
            Erasure: "user_id",
            HandOver: "user_id; sent by workers",
            SentOn: "user_id; sent by workers",
            Erased: "user_id; sent by workers",
        },
    ),
    topics.RECOMMENDATIONS: ("send", {Recommendation: "user_id"}),
    topics.SERVED: ("send", {Recommendation: "user_id"}),
    topics.DEAD_LETTERS: ("send", {DeadLetter: "as it came"}),
    topics.ROLLOUTS: (
        "send",
        {
            rollout_messages.Rollout: "model name",
            rollout_messages.RolloutLease: "MODEL/lease",
            rollout_messages.RolloutStep: "MODEL/history/ROLLOUT_ID/SEQUENCE",
            rollout_messages.RolloutCourse: "MODEL/course/ROLLOUT_ID",
            rollout_messages.RolloutAnswer: "MODEL/answer/COMMAND_ID",
        },
    ),
    topics.PLACEMENTS: (
        "receive",
        {
            PlacementRules: "its name; a tombstone (no value) removes it",
            SegmentRules: "segment/ and its name; a tombstone (no value) removes it",
        },
    ),
    topics.AUDIT: ("send", {AuditEntry: "action_id"}),
    topics.ROLLOUT_COMMANDS: (
        "receive",
        {
            rollout_messages.RolloutCommand: "MODEL/command/COMMAND_ID; sent by operators and "
            "trainers"
        },
    ),
}


def list_channels() -> Channels:
    """The channels of every topic."""
    events: Channels = {
        spec.topic: ("receive", {spec.struct: "user_id"}) for spec in EVENT_TYPES.values()
    }
    return events | _OTHER_CHANNELS


def make_document() -> dict[str, Any]:
    """The AsyncAPI 3.0 document of every topic; operations are named from Headwater's side."""
    channels = list_channels()
    keys = {kind: key for _, messages in channels.values() for kind, key in messages.items()}
    _, schemas = msgspec.json.schema_components(keys, ref_template="#/components/schemas/{name}")
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Headwater",
            "version": VERSION,
            "description": "Events in, recommendations out. Values are JSON in UTF-8, times are "
            "integer milliseconds UTC. The contract grows by optional fields only: ignore the "
            "ones that you do not know.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {topic.name: _channel(topic, channels) for topic in list_topics()},
        "operations": dict(_operation(name, action) for name, (action, _) in channels.items()),
        "components": {
            "messages": {kind.__name__: _message(kind, key) for kind, key in keys.items()},
            "schemas": schemas,
        },
    }


def _channel(topic: Topic, channels: Channels) -> dict[str, Any]:
    _, messages = channels[topic.name]
    names = [kind.__name__ for kind in messages]
    return {
        "address": topic.name,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {"kafka": {"topicConfiguration": _kafka(topic.config)}},
    }


def _kafka(config: dict[str, str]) -> dict[str, Any]:
    """The topic's configuration in the words of AsyncAPI's Kafka binding."""
    typed: dict[str, Any] = {}
    if "cleanup.policy" in config:
        typed["cleanup.policy"] = [config["cleanup.policy"]]
    for name in ("retention.ms", "max.message.bytes"):
        if name in config:
            typed[name] = int(config[name])
    return typed


def _message(kind: type[msgspec.Struct], key: str) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "summary": (kind.__doc__ or "").partition("\n")[0],
        "payload": {"$ref": f"#/components/schemas/{kind.__name__}"},
        "bindings": {"kafka": {"key": {"type": "string", "description": key}}},
    }


def _operation(topic: str, action: str) -> tuple[str, dict[str, Any]]:
    """Its name, such as receiveClicks, and what it is."""
    name = action + "".join(part.capitalize() for part in topic.split("-"))
    return name, {"action": action, "channel": {"$ref": f"#/channels/{topic}"}}
