"""What a topic must be: refused where it breaks a promise, told where it weakens one."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException
from headwater_client.errors import ServerError
from headwater_client.event_types import CLICK
from headwater_client.topics import DEAD_LETTERS, ITEMS, RECOMMENDATIONS, ROLLOUTS

from features.kafka.topics import _answer_or_warn, _faults, _FoundTopic, _setting_fault, _weaknesses
from features.settings import BrokerSettings
from features.topics import Topic, list_topics

SETTINGS = BrokerSettings()
TOPICS = {topic.name: topic for topic in list_topics()}
RIGHT = {
    CLICK.topic: {"message.timestamp.type": "LogAppendTime"},
    ITEMS: {"cleanup.policy": "compact"},
    RECOMMENDATIONS: {"message.timestamp.type": "LogAppendTime"},
    DEAD_LETTERS: {},
    ROLLOUTS: {"cleanup.policy": "compact"},
}
# What a topic has of which nobody has said anything.
DEFAULTS = {
    "cleanup.policy": "delete",
    "message.timestamp.type": "CreateTime",
    "max.message.bytes": "1048588",
    "retention.ms": "604800000",
    "retention.bytes": "-1",
    "min.insync.replicas": "1",
    "unclean.leader.election.enable": "false",
}


def found(name: str, *, copies: int = 3, brokers: int = 3, **config: str) -> _FoundTopic:
    topic = TOPICS[name]
    partitions = SETTINGS.partitions if topic.partitioned else 1
    config = {key.replace("_", "."): value for key, value in config.items()}
    return _FoundTopic(topic, partitions, copies, DEFAULTS | RIGHT.get(name, {}) | config, brokers)


def faults(described: _FoundTopic, settings: BrokerSettings = SETTINGS) -> list[str]:
    return list(_faults(described, settings))


@pytest.mark.parametrize("name", RIGHT)
def test_a_topic_with_the_defaults_and_what_it_needs_is_right(name: str) -> None:
    assert faults(found(name)) == []


@pytest.mark.parametrize("topic", list_topics(), ids=lambda topic: topic.name)
def test_a_topic_as_it_is_created_is_right(topic: Topic) -> None:
    described = found(CLICK.topic)._replace(
        topic=topic,
        partitions=SETTINGS.partitions if topic.partitioned else 1,
        config=DEFAULTS | topic.config | {"min.insync.replicas": "2"},
    )
    assert faults(described) == []
    assert list(_weaknesses(described, SETTINGS)) == []


@pytest.mark.parametrize(
    ("name", "config", "problem"),
    [
        (CLICK.topic, {"message_timestamp_type": "CreateTime"}, "message.timestamp.type is Crea"),
        (RECOMMENDATIONS, {"message_timestamp_type": "CreateTime"}, "message.timestamp.type is"),
        (CLICK.topic, {"cleanup_policy": "compact"}, "only a key's newest message"),
        (CLICK.topic, {"cleanup_policy": "compact,delete"}, "cleanup.policy is compact,delete"),
        (RECOMMENDATIONS, {"cleanup_policy": "compact"}, "only a key's newest message"),
        (DEAD_LETTERS, {"cleanup_policy": "compact"}, "only a key's newest message"),
        (ITEMS, {"cleanup_policy": "delete"}, "what has not changed for long would be forgotten"),
        (ROLLOUTS, {"cleanup_policy": "delete"}, "what has not changed for long"),
        (ROLLOUTS, {"cleanup_policy": "compact,delete"}, "what has not changed for long"),
        (DEAD_LETTERS, {"max_message_bytes": "100000"}, "max.message.bytes is 100000"),
        (RECOMMENDATIONS, {"max_message_bytes": "1000"}, "max.message.bytes is 1000"),
    ],
)
def test_a_configuration_that_breaks_a_promise_is_a_line(
    name: str, config: dict[str, str], problem: str
) -> None:
    [fault] = faults(found(name, **config))
    assert fault.startswith(f"topic {name}: ")
    assert problem in fault
    assert f"--entity-name {name} --add-config " in fault
    assert "\n" not in fault


@pytest.mark.parametrize("name", [RECOMMENDATIONS, ROLLOUTS])
def test_another_number_of_partitions_is_a_line(name: str) -> None:
    [fault] = faults(found(name)._replace(partitions=7))
    assert f"topic {name} has 7" in fault


def test_fewer_partitions_than_events_have_can_be_added() -> None:
    [fault] = faults(found(RECOMMENDATIONS)._replace(partitions=3))
    assert "kafka-topics.sh --alter --topic recommendations --partitions 4" in fault
    [fault] = faults(found(RECOMMENDATIONS)._replace(partitions=7))
    assert fault.endswith("make it anew")


@pytest.mark.parametrize("wanted", [4, 5])
def test_topics_that_differ_say_the_same_whichever_the_setting_follows(wanted: int) -> None:
    """Else to follow the line of one topic leads to the line of another, and back."""
    fault = _setting_fault(
        {"clicks": 5, "purchases": 4, "people": 4}, BrokerSettings(partitions=wanted)
    )
    assert fault.startswith("kafka.partitions: topic clicks has 5, and purchases, people fewer: ")
    assert "kafka-topics.sh --alter --topic purchases --partitions 5" in fault
    assert "set kafka.partitions to 5, and rebuild the rows in an empty store" in fault


def test_a_setting_that_all_topics_contradict_is_named() -> None:
    assert _setting_fault({"clicks": 4, "items": 4}, BrokerSettings(partitions=8)) == (
        "kafka.partitions: 8: topic clicks has 4: set kafka.partitions to 4, or use another cluster"
    )
    assert _setting_fault({"clicks": 4}, BrokerSettings(partitions=4)) == ""


def test_dead_letters_may_have_any_number_of_partitions() -> None:
    assert faults(found(DEAD_LETTERS)._replace(partitions=7)) == []


def test_one_copy_beside_other_brokers_is_refused_unless_a_setting_accepts_it() -> None:
    alone = found(CLICK.topic, copies=1)
    [fault] = faults(alone)
    assert "each partition is on one of 3 brokers" in fault
    accepted = BrokerSettings(replication_factor=1)
    assert faults(alone, accepted) == []
    [weakness] = _weaknesses(alone, accepted)
    assert "lost with it" in weakness
    assert faults(found(CLICK.topic, copies=1, brokers=1)) == []


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"retention_ms": "3600000"}, "retention.ms is 3600000"),
        ({"retention_bytes": "1000"}, "retention.bytes is 1000"),
        ({"unclean_leader_election_enable": "true"}, "unclean.leader.election.enable is true"),
        ({}, "min.insync.replicas is 1"),
    ],
)
def test_what_only_weakens_a_promise_is_told(config: dict[str, str], problem: str) -> None:
    weak = found(CLICK.topic, **config)
    assert faults(weak) == []
    assert any(problem in weakness for weakness in _weaknesses(weak, SETTINGS))


def test_what_kafka_does_not_tell_is_taken_for_right() -> None:
    for topic in list_topics():
        partitions = SETTINGS.partitions if topic.partitioned else 1
        silent = _FoundTopic(replace(topic), partitions, 1, {}, 0)
        assert faults(silent) == []
        assert list(_weaknesses(silent, SETTINGS)) == []


class Answer(Future[Any]):
    """What a broker answers to a question about itself."""

    def __init__(self, code: int) -> None:
        super().__init__()
        self.set_exception(KafkaException(KafkaError(code)))


@pytest.mark.parametrize(
    "code", [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED]
)
def test_a_client_that_may_not_read_configurations_is_told_and_goes_on(code: int) -> None:
    with structlog.testing.capture_logs() as told:
        assert _answer_or_warn(Answer(code), "topic clicks") is None
    assert [(line["event"], line["of"]) for line in told] == [
        ("topics_not_checked", "topic clicks")
    ]


def test_a_broker_that_is_away_is_no_missing_right() -> None:
    for code in (KafkaError._TRANSPORT, KafkaError.REQUEST_TIMED_OUT):
        with pytest.raises(ServerError, match="Kafka"):
            _answer_or_warn(Answer(code), "topic clicks")
