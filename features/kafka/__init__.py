"""Kafka itself.

admin.py          a client that asks Kafka about itself
log.py            the log of events and items: what it is known by, how far it has been read
topics.py         the topics as they must be
one_partition.py  topics that are read up to their ends, and written one message at a time
"""

from features.kafka.admin import TOO_LARGE, client_config
from features.kafka.log import (
    LogIdentity,
    describe_log,
    group_members,
    group_offsets,
    log_topics,
    message_times,
    partition_bounds,
    topic_ids,
)
from features.kafka.one_partition import (
    is_end,
    read_places,
    read_since,
    read_to_end,
    topic_consumer,
    write_message,
)
from features.kafka.topics import ensure_log, ensure_sources, ensure_topics, find_closed_topics

__all__ = [
    "TOO_LARGE",
    "LogIdentity",
    "client_config",
    "describe_log",
    "ensure_log",
    "ensure_sources",
    "ensure_topics",
    "find_closed_topics",
    "group_members",
    "group_offsets",
    "is_end",
    "log_topics",
    "message_times",
    "partition_bounds",
    "read_places",
    "read_since",
    "read_to_end",
    "topic_consumer",
    "topic_ids",
    "write_message",
]
