"""Who was forgotten: whose events, of before, no window may have."""

from collections.abc import Callable
from contextlib import closing
from threading import Event

from confluent_kafka import Message
from headwater_client.errors import EventError
from headwater_client.identities import Erasure, IdentityMessage, decode_identity
from headwater_client.topics import IDENTITIES

from features.kafka import is_end
from features.settings import BrokerSettings
from trainer.windows.assembler import Source
from trainer.windows.reader import MessageReader, source_of


class Erasures:
    """When Kafka took each person's newest erasure.

    What it took until then does not count, whenever it is read: that of one topic may be read after
    that of another, and a log may be read again from its beginning. An erasure is in Kafka for at
    least as long as the events that it is about.
    """

    def __init__(self) -> None:
        self._taken_ms: dict[str, int] = {}
        self._ends: dict[Source, int] = {}

    def read_log(
        self, kafka: BrokerSettings, group: str, stop: Event, on_turn: Callable[[], None]
    ) -> None:
        """Note all that Kafka has by now.

        Args:
            stop: set it, from another thread, to end before that.
            on_turn: called again and again.

        Raises:
            ServerError: Kafka does not answer, or the topic is missing.
        """
        with closing(MessageReader(kafka, group, [IDENTITIES])) as reader:
            backlog = reader.backlog()
            reader.start(backlog.starts)
            self._ends = dict(backlog.ends)
            while not (stop.is_set() or backlog.is_read):
                on_turn()
                for message in reader.read():
                    backlog.saw(message)
                    self.note(message)

    def note(self, message: Message) -> None:
        """Note a message of `identities`, if it is an erasure."""
        told = None if is_end(message) else read_identity(message)
        if isinstance(told, Erasure):
            taken_ms = message.timestamp()[1]
            self._taken_ms[told.user_id] = max(taken_ms, self._taken_ms.get(told.user_id, 0))

    def had(self, message: Message) -> bool:
        """Whether a message was there when the log was read."""
        return (message.offset() or 0) < self._ends.get(source_of(message), 0)

    def forgets(self, person: str, taken_ms: int) -> bool:
        """Whether what Kafka took at a time is of who was forgotten."""
        return taken_ms <= self._taken_ms.get(person, -1)


def read_identity(message: Message) -> IdentityMessage | None:
    """What a message says; None where it breaks the contract: workers keep it as a dead letter."""
    try:
        return decode_identity(message.value())
    except EventError:
        return None
