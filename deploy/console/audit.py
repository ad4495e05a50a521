"""The topic `audit`: who has changed what, each entry with the digest of the one before it.

Consoles write in transactions of one transactional id. To begin one, a console fences whoever else
is about to write, and then reads to the end: so no two entries name the same one before them.
"""

import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from hashlib import sha256

import tenacity
from confluent_kafka import KafkaException, Producer
from headwater_client import EventError, decode, encode
from headwater_client.admin.audit import AuditEntry
from headwater_client.errors import ServerError
from headwater_client.topics import AUDIT
from msgspec.structs import replace

from features.events import current_ms
from features.kafka import client_config, read_to_end, topic_consumer
from features.kafka.access import AUDIT_WRITER
from features.settings import BrokerSettings

FIRST = "0" * 64
_ANSWER_S = 10.0
_LONGEST_PAUSE_S, _WITHIN_S = 2.0, 30.0
# A target may name a person, and so may what stands in a message.
_MASKED = "not shown to this key: it may name people"


@dataclass
class AuditChain:
    """The entries that were read, in order, and where they do not fit together.

    Attributes:
        digest: of the newest entry.
        breaks: where an entry was changed, removed or added by others, a line each.
    """

    entries: list[AuditEntry] = field(default_factory=list)
    digest: str = FIRST
    breaks: list[str] = field(default_factory=list)

    def take(self, offset: int, raw: bytes) -> None:
        """The next message of the topic.

        >>> chain = AuditChain()
        >>> chain.take(0, b"{}")
        >>> chain.breaks
        ['offset 0: is no entry: number: is required']
        """
        try:
            entry = decode(AuditEntry, raw)
        except EventError as error:
            # Without its value, which may name a person.
            self.breaks.append(f"offset {offset}: is no entry: {error.field}: {error.expected}")
            return
        expected = self.entries[-1].number + 1 if self.entries else 1
        if entry.before != self.digest or entry.number != expected:
            self.breaks.append(
                f"offset {offset}: entry {entry.number} does not follow on what stands before it: "
                "an entry was changed, removed or added"
            )
        self.entries.append(entry)
        self.digest = sha256(raw).hexdigest()

    @property
    def newest_first(self) -> Iterator[AuditEntry]:
        """The entries, from the newest on."""
        return reversed(self.entries)


class AuditLog:
    """Reads and writes the topic. Any thread may call it."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._chain = AuditChain()
        self._next_offset = 0

    def read(self) -> AuditChain:
        """All entries, as they are now.

        Raises:
            ServerError: Kafka does not answer.
        """
        with self._lock:
            self._catch_up()
            known = self._chain
            return AuditChain(list(known.entries), known.digest, list(known.breaks))

    def append(self, entry: AuditEntry) -> AuditEntry:
        """Write an entry, with its number, its time and the digest of the one before it.

        Raises:
            ServerError: Kafka does not take it; it may or may not stand there.
        """
        # At random: two that begin again at once overtake one another for ever.
        again = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_overtaken),
            wait=tenacity.wait_random(0, _LONGEST_PAUSE_S),
            stop=tenacity.stop_after_delay(_WITHIN_S),
            reraise=True,
        )
        try:
            with self._lock:
                return again(self._write, entry)
        except KafkaException as error:
            raise ServerError(f"Kafka: topic {AUDIT}: {error.args[0].str()}") from error

    def _write(self, entry: AuditEntry) -> AuditEntry:
        producer = Producer(
            client_config(self._settings) | {"transactional.id": AUDIT_WRITER, "log_level": "0"}
        )
        producer.init_transactions(_ANSWER_S)
        self._catch_up()
        entries = self._chain.entries
        number = entries[-1].number + 1 if entries else 1
        made = replace(entry, number=number, time=current_ms(), before=self._chain.digest)
        producer.begin_transaction()
        producer.produce(AUDIT, encode(made), made.action_id)
        producer.commit_transaction(_ANSWER_S)
        return made

    def _catch_up(self) -> None:
        with closing(topic_consumer(self._settings, AUDIT)) as consumer:
            for message in read_to_end(consumer, AUDIT, self._next_offset):
                offset = message.offset() or 0
                if offset < self._next_offset:
                    # The topic was made anew.
                    self._chain, self._next_offset = AuditChain(), 0
                value = message.value() or b""
                self._chain.take(offset, value.encode() if isinstance(value, str) else value)
                self._next_offset = offset + 1


def _is_overtaken(error: BaseException) -> bool:
    """Whether another console has begun to write meanwhile; nothing of ours stands there."""
    if not isinstance(error, KafkaException):
        return False
    reason = error.args[0]
    return bool(reason.fatal() or reason.txn_requires_abort())


def make_entry(**said: str) -> AuditEntry:
    """An entry before it is written: the topic says what stands before it."""
    return AuditEntry(number=0, time=0, before="", **said)


def hide(entry: AuditEntry) -> AuditEntry:
    """An entry without what may name a person: on what, and what was wrong with it.

    What somebody has written as a reason stays.
    """
    outcome, colon, _ = entry.outcome.partition(": ")
    return replace(entry, target=_MASKED, outcome=f"{outcome}: {_MASKED}" if colon else outcome)
