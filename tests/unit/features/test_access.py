"""The rights of each role, as Kafka's own tool is told them."""

from __future__ import annotations

import pytest

from features.kafka.access import Resource, Right, Role, find_access, list_rights, write_commands
from features.topics import list_topics


def test_every_topic_has_who_writes_and_who_reads_it() -> None:
    for topic in list_topics():
        access = find_access(topic.name)
        assert access.writers, topic.name
        assert access.readers, topic.name


@pytest.mark.parametrize("role", Role)
def test_only_an_operator_makes_topics(role: Role) -> None:
    rights = list(list_rights(role, "headwater", "temporal_llm"))
    made = [right for right in rights if "Create" in right.operations]
    assert [right.resource for right in made] == [Resource.CLUSTER] * (role is Role.OPERATOR)
    assert all(right.operations for right in rights)


def test_rights_are_commands_of_kafkas_own_tool() -> None:
    rights = [
        Right(Resource.TOPIC, "clicks", ("Read", "Describe")),
        Right(Resource.GROUP, "headwater-", ("Read",), is_prefix=True),
        Right(Resource.CLUSTER, "kafka-cluster", ("Create",)),
    ]
    head = "kafka-acls.sh --bootstrap-server b1:9092 --add --allow-principal 'User:w'"
    assert list(write_commands(rights, "User:w", "b1:9092")) == [
        f"{head} --operation Read --operation Describe --topic 'clicks'",
        f"{head} --operation Read --group 'headwater-' --resource-pattern-type prefixed",
        f"{head} --operation Create --cluster",
    ]
