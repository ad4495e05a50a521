"""Placements and segments on a compacted topic: the newest of a name counts, a tombstone ends it.

A placement's revision is the offset of its message: whoever changes one, and from where, revisions
grow, and nobody hands them out. Each message says which one it follows, so that of two people who
change one placement at the same moment the second is told, and changes nothing. Where
`kafka.signing_key` is set only what is signed with it counts (`features.signing`).
"""

import time
from contextlib import closing

import structlog
from confluent_kafka import Message
from headwater_client import EventError, HeadwaterError, ServerError, SettingsError, decode, encode
from headwater_client.contract import PlacementRules, SegmentRules
from headwater_client.topics import PLACEMENTS

from features import kafka, signing
from features.metrics import LogThrottle, make_counter
from features.placements import (
    SEGMENT_PREFIX,
    PlacementTable,
    Rules,
    can_be_key,
    check_placement,
    check_segment,
    segment_key,
)
from features.rules.errors import RuleError
from features.settings import BrokerSettings

_POLL_S, _ANSWER_S = 0.05, 15.0
_SHOWN_CHARS = 64
# Names of whose messages that do not count the newest is known.
MAX_STRANGERS = 10_000
IGNORED = make_counter(
    "headwater_placement_messages_ignored_total",
    "Messages on `placements` that changed nothing",
    "reason",
    ("unreadable", "not signed", "old"),
)
log = structlog.get_logger()


class OvertakenError(HeadwaterError):
    """Somebody has changed the same placement or segment meanwhile; what was written is not."""


class PlacementReader:
    """Takes messages of the topic into a table, and says which of them count.

    What stands there is others' work: nothing of it raises. What cannot be used, is not signed
    where a key is set, or does not follow the newest of its name, is logged, counted, and changes
    nothing.

    Attributes:
        table: the placements and segments that count.
        end: the offset behind the last message that was read.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        self.table = PlacementTable()
        self.end = 0
        self._settings = settings
        self._is_signed = False
        self._ignored = LogThrottle()
        # Of each key, also of what does not count: who has no key believes that.
        self._newest: dict[str, int] = {}

    def take(self, message: Message) -> None:
        """Take a message."""
        if message.error() is not None:
            return
        revision = message.offset() or 0
        self.end = revision + 1
        self._is_signed |= bool(signing.read_header(message, signing.SIGNATURE_HEADER))
        key, value = message.key() or b"", message.value()
        name = key if isinstance(key, str) else key.decode(errors="replace")
        raw = value.encode() if isinstance(value, str) else value
        if not can_be_key(name):
            self._ignore(name, "unreadable", "is no name of a placement or a segment")
            return
        is_trusted = signing.is_trusted(self._settings, message)
        if is_trusted or name in self._newest or len(self._newest) < MAX_STRANGERS:
            self._newest[name] = revision
        if not is_trusted:
            self._ignore(name, "not signed")
            return
        try:
            counts = self.table.take(
                name, _read_rules(name, raw), revision, signing.read_follows(message)
            )
        except (EventError, RuleError, ValueError) as error:
            self._ignore(name, "unreadable", str(error))
            return
        if not counts:
            self._ignore(name, "old")

    def _ignore(self, name: str, reason: str, error: str = "") -> None:
        IGNORED.labels(reason).inc()
        if ignored := self._ignored.count():
            shown = {"error": error} if error else {}
            log.warning(
                "placement_ignored",
                placement=name[:_SHOWN_CHARS],
                reason=reason,
                ignored=ignored,
                **shown,
            )

    def make_headers(self, key: str, value: bytes | None) -> signing.Headers:
        """The headers of the next message of a key.

        Raises:
            SettingsError: what stands there is signed, and no key is set: it would not count.
        """
        if self._is_signed and self._settings.signing_key is None:
            raise SettingsError(
                f"kafka.signing_key: is not set, and what stands on the topic {PLACEMENTS} is "
                "signed: set it to what the services have"
            )
        follows = self._newest.get(key, -1)
        return signing.signature_headers(self._settings, PLACEMENTS, key, value or b"", follows)

    def check_written(self, key: str, revision: int) -> None:
        """Refuse a message of ours that does not count, once it was read back.

        Raises:
            OvertakenError: another one came between.
        """
        if self.table.newest(key) != revision:
            raise OvertakenError(
                f"{key}: somebody has changed it at the same moment, by revision "
                f"{self.table.newest(key)}: look at it, and say it again"
            )


def _read_rules(key: str, raw: bytes | None) -> Rules | None:
    """What a message says.

    Raises:
        EventError, RuleError: it cannot be used.
    """
    if raw is None:
        return None
    if key.startswith(SEGMENT_PREFIX):
        segment = decode(SegmentRules, raw)
        check_segment(key.removeprefix(SEGMENT_PREFIX), segment)
        return segment
    placement = decode(PlacementRules, raw)
    check_placement(key, placement)
    return placement


def read_placements(settings: BrokerSettings) -> PlacementTable:
    """All placements, as they are now.

    Raises:
        ServerError: the topic cannot be read.
    """
    with closing(PlacementView(settings)) as view:
        view.refresh()
        return view.table


class PlacementView:
    """The placements as they are now, for one thread."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings
        self._reader = PlacementReader(settings)
        self._consumer = kafka.topic_consumer(settings, PLACEMENTS)
        self._is_read = False

    @property
    def table(self) -> PlacementTable:
        """The placements that count, as of the last `refresh`."""
        return self._reader.table

    def refresh(self) -> None:
        """Take in what has changed: the first time all that there is, then what has come since.

        Raises:
            ServerError: the topic cannot be read.
        """
        if not self._is_read:
            for message in kafka.read_to_end(self._consumer, PLACEMENTS):
                self._reader.take(message)
            self._is_read = True
        while (changed := self._consumer.poll(0)) is not None:
            self._reader.take(changed)

    def write(self, key: str, rules: Rules | None) -> int:
        """Write a placement or a segment, or that there is none any more; its revision.

        Raises:
            SettingsError: it would not count, for want of a key.
            OvertakenError: somebody has changed it at the same moment.
            ServerError: Kafka does not take it, or cannot be read.
        """
        self.refresh()
        value = None if rules is None else encode(rules)
        headers = self._reader.make_headers(key, value)
        revision = kafka.write_message(self._settings, PLACEMENTS, key, value, headers)
        deadline = time.monotonic() + _ANSWER_S
        while self._reader.end <= revision:
            if time.monotonic() > deadline:
                raise ServerError(f"Kafka: topic {PLACEMENTS}: what was written does not come back")
            if (message := self._consumer.poll(_POLL_S)) is not None:
                self._reader.take(message)
        self._reader.check_written(key, revision)
        return revision

    def close(self) -> None:
        """Leave Kafka."""
        self._consumer.close()


def write_placement(settings: BrokerSettings, name: str, placement: PlacementRules | None) -> int:
    """Write a placement, or that there is none any more; its revision.

    Raises:
        EventError, RuleError: it could not be used.
        OvertakenError, ServerError, SettingsError: as of `PlacementView.write`.
    """
    if placement is not None:
        check_placement(name, placement)
    with closing(PlacementView(settings)) as view:
        return view.write(name, placement)


def write_segment(settings: BrokerSettings, name: str, segment: SegmentRules | None) -> int:
    """Write a segment, or that there is none any more; its revision. As `write_placement`."""
    if segment is not None:
        check_segment(name, segment)
    with closing(PlacementView(settings)) as view:
        return view.write(segment_key(name), segment)


def sign_placements(settings: BrokerSettings) -> list[str]:
    """Write again, signed, what does not count for want of a signature: its keys.

    For once, after a key was set. Whoever does this says that what stands there is right: it may be
    anybody's.

    Raises:
        SettingsError: no key is set.
        OvertakenError, ServerError: as of `PlacementView.write`.
    """
    if settings.signing_key is None:
        raise SettingsError("kafka.signing_key: is not set: set it to what services are to have")
    found = read_placements(settings.model_copy(update={"signing_key": None}))
    there: dict[str, Rules] = {name: each.placement for name, each in found.known.items()}
    there |= {segment_key(name): each.segment for name, each in found.segments.items()}
    with closing(PlacementView(settings)) as view:
        view.refresh()
        unsigned = [key for key in there if view.table.newest(key) != found.newest(key)]
        for key in unsigned:
            view.write(key, there[key])
    return unsigned
