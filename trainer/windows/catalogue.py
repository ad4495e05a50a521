"""The catalogue as the topic `items` has it, read on as it changes."""

from __future__ import annotations

import time

import structlog
from confluent_kafka import Message
from headwater_client.errors import EventError, ServerError
from headwater_client.events import Item, decode
from headwater_client.topics import ITEMS

from features.settings import BrokerSettings
from trainer.windows.reader import ANSWER_S, WAIT_S, MessageReader, is_end, source_of

GROUP = "headwater-trainer"
log = structlog.get_logger()


class CatalogueReader:
    """Reads `items` from its beginning on; to be closed.

    Raises:
        ServerError: Kafka does not answer, or the topic is missing.
    """

    def __init__(self, kafka: BrokerSettings) -> None:
        self._reader = MessageReader(kafka, GROUP, [ITEMS])
        self._unread = set(self._reader.sources)
        self._reader.start(dict.fromkeys(self._reader.sources, 0))

    def news(self) -> list[Item]:
        """What was said of items since the last call; the first time, all of it.

        A removed item is not told of: workers leave it out of what they recommend.

        Raises:
            ServerError: a partition cannot be read.
        """
        found: list[Item] = []
        until = time.monotonic() + ANSWER_S
        while True:
            # Once all is read, what comes later is fetched before anyone asks for it.
            messages = list(self._reader.read(WAIT_S if self._unread else 0.0))
            for message in messages:
                self._take(message, found)
            # Not until nothing comes: in a busy catalogue something always does.
            if not self._unread:
                return found
            if messages:
                until = time.monotonic() + ANSWER_S
            elif time.monotonic() > until:
                raise ServerError(f"Kafka: topic {ITEMS}: no answer in {ANSWER_S:.0f} s")

    def close(self) -> None:
        """End reading."""
        self._reader.close()

    def _take(self, message: Message, found: list[Item]) -> None:
        if is_end(message):
            self._unread.discard(source_of(message))
            return
        self._unread.add(source_of(message))
        if message.value() is not None:
            try:
                found.append(decode(Item, message.value()))
            except EventError as error:
                # Workers keep it as a dead letter.
                log.warning("item_refused", offset=message.offset(), reason=str(error))
