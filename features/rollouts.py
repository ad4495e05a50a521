"""What the compacted topic `rollouts` says: which versions of a model take traffic.

With `kafka.signing_key` each message is signed (`features.signing`). Without the key whoever may
write to the topic is believed.
"""

import hashlib
from collections.abc import Iterator

import confluent_kafka
import structlog
from headwater_client.errors import ServerError
from headwater_client.events import encode
from headwater_client.topics import ROLLOUTS

from features import kafka, rollout_messages
from features.metrics import make_counter
from features.rollout_messages import Rollout, RolloutMessage, RolloutRecord, RolloutStep
from features.settings import BrokerSettings
from features.signing import is_trusted, signature_headers

MAX_LOGGED_CHARS = 200
# Whoever may write to the topic can make up names: no more are followed.
MAX_SUBJECTS = 1000
log = structlog.get_logger()

REFUSED = make_counter(
    "headwater_rollout_messages_refused_total",
    "Messages on `rollouts` that changed nothing",
    "reason",
    ("unreadable", "not signed", "of another model", "old"),
)


def warn_if_unsigned(settings: BrokerSettings) -> None:
    """Say at start that whoever may write to `rollouts` and `placements` decides who gets what."""
    if settings.signing_key is None:
        log.warning(
            "rollouts_not_signed",
            remedy="set kafka.signing_key, the same for workers, trainer, controllers and the API",
        )


class RolloutReader:
    """Reads messages of the topic about one subject, and says which of them count.

    What stands there is others' work: nothing of it raises. What is unreadable, of another release,
    not signed where a key is set, or older than what was read before, is logged, counted, and
    changes nothing.

    Attributes:
        model: the subject.
        revision: of the newest rollout or step that counts; 0 before there is one, and for those of
            release 0.1.0.
        lease_sequence: of the newest lease.
        step_digest: of the newest step, which the next one has to name; "" before there is one.
        refusal: why the newest routing message does not count; "" where it does.
        needs_restoring: one that is not signed, or old, stands behind the rollout that counts. Once
            the topic is compacted nothing else may be left.
    """

    def __init__(self, settings: BrokerSettings, model: str) -> None:
        self.model = model
        self._settings = settings
        self.revision = self.lease_sequence = 0
        self.step_digest = self.refusal = ""
        self.needs_restoring = False

    def read(self, message: confluent_kafka.Message) -> RolloutMessage | None:
        """What a message says, if it counts; else None."""
        record = self.record(message)
        return None if record is None else self.accept(record, message)

    def accept(
        self, record: RolloutRecord, message: confluent_kafka.Message
    ) -> RolloutMessage | None:
        """What a record says, if it counts; else None."""
        said = record.message
        if reason := self._find_refusal(record):
            _refuse(reason, message)
            if isinstance(said, Rollout):
                self.refusal, self.needs_restoring = reason, True
            return None
        match said:
            case Rollout():
                self.revision, self.refusal, self.needs_restoring = said.revision, "", False
            case rollout_messages.RolloutLease():
                self.lease_sequence = said.sequence
            case RolloutStep(rollout=rollout):
                self.revision = rollout.revision or self.revision
                self.step_digest = record.digest
        return said

    def record(self, message: confluent_kafka.Message) -> RolloutRecord | None:
        """A message as it was found; None if it is of another model, a tombstone, or unreadable."""
        key, value = message.key(), message.value()
        if message.error() is not None or key is None or value is None:
            return None
        try:
            name = key.decode()
            said = rollout_messages.decode_rollout_message(name, value, self.model)
            if said is None:
                return None
            digest = hashlib.sha256(value).hexdigest()
            return RolloutRecord(said, is_trusted(self._settings, message), digest)
        except Exception as error:  # noqa: BLE001  (whoever may write there must not end a process)
            _refuse("unreadable", message, error)
            return None

    def _find_refusal(self, record: RolloutRecord) -> str:
        said, reason = record.message, ""
        match said:
            case rollout_messages.RolloutCommand():
                # It bears a signature of its own, of the admin token.
                pass
            case _ if not record.is_trusted:
                reason = "not signed"
            case Rollout(model=model) if model != self.model:
                reason = "of another model"
            case Rollout(revision=revision) | RolloutStep(rollout=Rollout(revision=revision)) if (
                revision
            ):
                least = self.revision + isinstance(said, Rollout)
                reason = "old" if revision < least else ""
            case rollout_messages.RolloutLease(sequence=number) if number <= self.lease_sequence:
                reason = "old"
        return reason


class SubjectReaders:
    """A reader for each subject of the topic: the model, and every placement that stands there.

    Args:
        model: whose versions take traffic.
    """

    def __init__(self, settings: BrokerSettings, model: str) -> None:
        self._settings = settings
        self._model = model
        self._readers: dict[str, RolloutReader] = {}

    def find(self, message: confluent_kafka.Message) -> "RolloutReader | None":
        """The reader of a message's subject; None for a subject that nobody here follows."""
        key = message.key() or b""
        name = key if isinstance(key, str) else key.decode(errors="replace")
        subject = name.partition("/")[0]
        if name == self._model or name.startswith(f"{self._model}/"):
            subject = self._model
        elif rollout_messages.placement_of(subject) is None:
            return None
        found = self._readers.get(subject)
        if found is None and len(self._readers) < MAX_SUBJECTS:
            found = self._readers[subject] = RolloutReader(self._settings, subject)
        return found


def _refuse(reason: str, message: confluent_kafka.Message, error: Exception | None = None) -> None:
    REFUSED.labels(reason).inc()
    said = " ".join(str(error).split())[:MAX_LOGGED_CHARS] if error else ""
    shown = {"error": f"{type(error).__name__}: {said}"} if error else {}
    log.warning("rollout_ignored", offset=message.offset(), reason=reason, **shown)


class RolloutView:
    """What the topic says of one model: read from its beginning once, and on from there each time.

    Connects when it first reads, and takes nothing from Kafka between two reads. For one thread.

    Attributes:
        newest: the rollout that counts, as of the last `refresh`; None where there was none.
        reader: says which messages count.
    """

    def __init__(self, settings: BrokerSettings, model: str) -> None:
        self.model = model
        self.newest: Rollout | None = None
        self.reader = RolloutReader(settings, model)
        self._settings = settings
        self._consumer: confluent_kafka.Consumer | None = None
        self._next = confluent_kafka.OFFSET_BEGINNING

    def refresh(self) -> Rollout | None:
        """Take in all that was written since the last time; the newest rollout.

        Raises:
            ServerError: the topic cannot be read.
        """
        for _ in self.read():
            pass
        return self.newest

    def read(self) -> Iterator[RolloutMessage]:
        """The messages of the model that were written since the last time, oldest first.

        What does not count is logged and passed over. A reader that stops early goes on from there.

        Raises:
            ServerError: the topic cannot be read.
        """
        for message in self.messages():
            said = self.reader.read(message)
            if isinstance(said, Rollout):
                self.newest = said
            if said is not None:
                yield said

    def messages(self) -> Iterator[confluent_kafka.Message]:
        """What was written since the last time, oldest first, of every model.

        Raises:
            ServerError: the topic cannot be read.
        """
        if self._consumer is None:
            self._consumer = kafka.topic_consumer(self._settings, ROLLOUTS)
        try:
            for message in kafka.read_to_end(self._consumer, ROLLOUTS, self._next):
                offset = message.offset() or 0
                if offset < self._next:
                    # A topic that was made anew counts anew.
                    self.reader = RolloutReader(self._settings, self.model)
                self._next = offset + 1
                yield message
        except ServerError:
            # A client may be lost for good (librdkafka #5301): the next read has another one.
            self.close()
            raise
        finally:
            if self._consumer is not None:
                self._consumer.unassign()

    def close(self) -> None:
        """Disconnect; a later read connects anew, and goes on."""
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None


def write_rollout_message(
    settings: BrokerSettings, key: str, message: RolloutMessage, what: str, topic: str = ROLLOUTS
) -> None:
    """Write one message, signed where a key is set, and wait until Kafka has it.

    Args:
        what: it is, for the error.

    Raises:
        ServerError: Kafka does not take it.
    """
    value = encode(message)
    try:
        headers = signature_headers(settings, topic, key, value)
        kafka.write_message(settings, topic, key, value, headers)
    except ServerError as error:
        raise ServerError(f"{what}: {error}") from error
