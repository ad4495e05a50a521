"""Kafka itself.

admin.py          a client that asks Kafka about itself
log.py            the log of events and items: what it is known by, how far it has been read
topics.py         the topics as they must be
offsets.py        which offsets a log has at a moment, at its beginning and end
one_partition.py  topics that are read up to their ends, and written one message at a time
"""

from features.kafka.admin import TOO_LARGE, client_config, watch_brokers, watched_config
from features.kafka.log import (
    LogIdentity,
    describe_log,
    group_members,
    group_offsets,
    log_topics,
    message_times,
    topic_ids,
)
from features.kafka.offsets import ask_bounds, ask_offsets, partition_bounds
from features.kafka.one_partition import (
    is_end,
    read_places,
    read_ranges,
    read_since,
    read_to_end,
    topic_consumer,
    write_message,
)
from features.kafka.topics import (
    ensure_log,
    ensure_sources,
    ensure_topics,
    find_closed_topics,
    read_retention,
)

__all__ = [
    "TOO_LARGE",
    "LogIdentity",
    "ask_bounds",
    "ask_offsets",
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
    "read_ranges",
    "read_retention",
    "read_since",
    "read_to_end",
    "topic_consumer",
    "topic_ids",
    "watch_brokers",
    "watched_config",
    "write_message",
]
