"""How a client connects to Kafka, and asks it about itself."""

import time
from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from typing import Any, TypeVar

import tenacity
from confluent_kafka import KafkaError, KafkaException, TopicCollection
from confluent_kafka.admin import AdminClient, ClusterMetadata, TopicDescription  # type: ignore[attr-defined]  # public, but not to its types
from headwater_client.errors import ServerError, SettingsError
from headwater_client.kafka import BrokerWatch, remedy_of, unreachable

from features.settings import BrokerSettings

TIMEOUT_S = 15.0
POLL_S = 0.05
_ASK_S = 2.0
NOT_THERE = (KafkaError.UNKNOWN_TOPIC_OR_PART,)
# Of a message that its topic will never take.
TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
# What clients show for a topic of a broker that gives topics no ids.
NO_TOPIC_ID = ("", "None", "AAAAAAAAAAAAAAAAAAAAAA")
TopicDescriptions = dict[str, TopicDescription]
AnswerT = TypeVar("AnswerT")
# How often a client tells of itself.
_TOLD_MS = 10_000


def client_config(settings: BrokerSettings) -> dict[str, Any]:
    """Librdkafka's configuration of any client: where Kafka is, and how to log in there.

    Raises:
        SettingsError: no address is set.
    """
    return {**settings.client_settings.client_config()}


def watched_config(settings: BrokerSettings) -> dict[str, Any]:
    """The same of a client that is polled as long as its process lives: it says when it is lost.

    Whoever polls it gets a ServerError then. What a client tells of itself waits for the next poll:
    of one that nobody polls it would pile up.
    """
    return client_config(settings) | watch_brokers()


def watch_brokers() -> dict[str, Any]:
    """What `watched_config` adds, for one client."""
    watch = BrokerWatch()

    def raise_if_lost(statistics: str) -> None:
        if watch.hear(statistics):
            raise ServerError(
                "Kafka: this client was told of no brokers by one that shut down, and does not "
                "look for any again (librdkafka #5301): it begins anew"
            )

    return {"statistics.interval.ms": str(_TOLD_MS), "stats_cb": raise_if_lost}


def make_client(settings: BrokerSettings) -> AdminClient:
    """A client that has not been answered yet."""
    # What goes wrong is raised; librdkafka's own lines on the terminal say it again and again.
    return AdminClient({**client_config(settings), "log_level": "0"})


def connect(settings: BrokerSettings) -> AdminClient:
    """A client that Kafka has answered.

    Raises:
        SettingsError: Kafka refuses it.
        ServerError: it does not answer.
    """
    heard: list[KafkaError] = []
    config: dict[str, Any] = {**client_config(settings), "log_level": "0", "error_cb": heard.append}
    try:
        admin = AdminClient(config)
    except KafkaException as error:
        raise SettingsError(f"kafka: {error.args[0].str()}") from error
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            admin.list_topics(timeout=_ASK_S)
            return admin
        except KafkaException as error:
            # The answer is that time is over; why, librdkafka tells by the way, again and again.
            admin.poll(0)
            if refused := next(filter(remedy_of, heard), None):
                raise unreachable(KafkaException(refused)) from error
            if time.monotonic() > deadline:
                # The longest text guesses what is wrong: a listener of another protocol.
                told = max((each.str() for each in heard), key=len, default=error.args[0].str())
                raise ServerError(
                    f"Kafka: {told}: check kafka.bootstrap_servers and kafka.security_protocol"
                ) from error


def describe_topics(admin: AdminClient, names: list[str]) -> TopicDescriptions:
    """What Kafka says of the topics that are there.

    Raises:
        ServerError: Kafka does not answer.
    """
    futures = admin.describe_topics(TopicCollection(names), request_timeout=TIMEOUT_S)
    answers = ((name, take_answer(future, NOT_THERE)) for name, future in futures.items())
    return {name: answer for name, answer in answers if answer is not None}


def identify_topics(described: TopicDescriptions, cluster: str) -> dict[str, str]:
    """What names each topic: Kafka's id; of brokers without ids the names of cluster and topic."""
    ids = {name: str(description.topic_id) for name, description in described.items()}
    times = Counter(ids.values())
    return {
        name: f"{cluster}/{name}" if topic_id in NO_TOPIC_ID or times[topic_id] > 1 else topic_id
        for name, topic_id in ids.items()
    }


def cluster_id(admin: AdminClient) -> str:
    """Kafka's own id of the cluster; "" where it has none.

    Raises:
        ServerError: Kafka does not answer.
    """
    return str(read_metadata(admin).cluster_id or "")


def read_metadata(admin: AdminClient) -> ClusterMetadata:
    """The cluster's id, its brokers and its topics.

    Not by `describe_cluster`: a broker that the controller takes for dead, since it slept, answers
    that there are no brokers, and librdkafka takes this for a fault of its own and ends the process
    (SIGABRT, `rko_result`; seen of 2.15 and 2.16).

    Raises:
        ServerError: Kafka does not answer.
    """
    try:
        return admin.list_topics(timeout=TIMEOUT_S)
    except KafkaException as error:
        raise unreachable(error) from error


def ask_again(
    ask: Callable[[], AnswerT], passing: Collection[int], timeout_s: float = TIMEOUT_S
) -> AnswerT:
    """The answer of Kafka to a question, asked again as long as it is an error that passes.

    Args:
        ask: raises KafkaException where there is none.
        passing: the codes of such errors.
        timeout_s: for so long.

    Raises:
        ServerError: Kafka does not answer.
        SettingsError: it refuses this login.
    """

    def passes(error: BaseException) -> bool:
        return isinstance(error, KafkaException) and error.args[0].code() in passing

    asking = tenacity.Retrying(
        retry=tenacity.retry_if_exception(passes),
        stop=tenacity.stop_after_delay(timeout_s),
        wait=tenacity.wait_fixed(POLL_S),
        reraise=True,
    )
    try:
        return asking(ask)
    except KafkaException as error:
        raise unreachable(error) from error


def take_answer(future: Future[Any], expected: Collection[int]) -> Any:
    """A future's result; None for an expected error.

    Raises:
        ServerError: any other.
    """
    try:
        return future.result()
    except KafkaException as error:
        reason: KafkaError = error.args[0]
        if reason.code() in expected:
            return None
        raise unreachable(error) from error
