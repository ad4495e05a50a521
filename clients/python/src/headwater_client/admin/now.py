"""Page "Now": what happens this moment, and what happened in the last hour and day."""

from enum import StrEnum

from msgspec import Struct

from headwater_client.contract import Problem, Scope
from headwater_client.operations import Operation


class Span(StrEnum):
    """How far back a history goes."""

    HOUR = "hour"
    DAY = "day"


class Counted(Struct, frozen=True, kw_only=True):
    """How often something happened.

    Attributes:
        per_second: over the last `recent_s` of the answer; None while nothing was watched.
        hour, day: in the last hour and day, as far as the console has watched.
        total: what the counters of all processes that answer now say, each since it began.
    """

    per_second: float | None
    hour: int
    day: int
    total: int


class EventsNow(Counted, frozen=True, kw_only=True):
    """What workers read of one topic.

    Attributes:
        type: of the events; "" for a topic of no event type.
        in_log: messages that the topic has now; None where Kafka does not say.
    """

    topic: str
    type: str
    in_log: int | None


class AnswersNow(Counted, frozen=True, kw_only=True):
    """Answers on the topic `recommendations`, of one variant.

    Attributes:
        fallback: whether they are popular items, and no model's answer.
    """

    variant: str
    fallback: bool


class RequestsNow(Counted, frozen=True, kw_only=True):
    """Requests to the HTTP API for lists, of one operation.

    Attributes:
        failed: of these, those that had a problem for an answer since the processes began.
    """

    operation: str
    failed: int


class RefusalsNow(Counted, frozen=True, kw_only=True):
    """Messages of one topic that became dead letters."""

    topic: str


class LatencyNow(Struct, frozen=True, kw_only=True):
    """Milliseconds from when Kafka took an event on.

    `p50_ms` and `p99_ms` are interpolated within the buckets of a histogram; None where there was
    nothing.

    Attributes:
        count: how many answers or events they are of.
    """

    p50_ms: float | None
    p99_ms: float | None
    count: int


class PartitionNow(Struct, frozen=True, kw_only=True):
    """How far the workers' group has read a partition.

    Attributes:
        first, end: the offsets of the oldest message, and of the one that comes next.
        committed: where the group reads on; None where it never committed.
        lag: messages from there on. Rows hold some of them: workers commit a while later.
        age_ms: how long the oldest message has waited that no row holds, once that is more than six
            seconds; 0 where none has, None where that is not known.
    """

    topic: str
    partition: int
    first: int
    end: int
    committed: int | None
    lag: int
    age_ms: int | None


class KnowledgeNow(Struct, frozen=True, kw_only=True):
    """How old that is what answers know.

    Attributes:
        age_ms: how long after they came answers know events: of those that rows took in lately
            (`recent_s` of the answer), 99 in 100 waited at most so long; or what one has waited
            that no row holds, where that is more. 0 where nothing came; None: not known.
        lag: events, items and people's messages that workers have not committed.
        trends_time: the time that what trends is known as of; None before anything trends.
    """

    age_ms: int | None
    lag: int | None
    trends_time: int | None


class VersionNow(Struct, frozen=True, kw_only=True):
    """A version that takes traffic.

    Attributes:
        share: of people, as the rollout says.
        answers: of the last hour.
        answer_share: of all answers of the last hour; None without any.
        workers: by process, the version that this variant is answered by there; 0 for none.
        problem: why it does not answer here; "" where it does.
    """

    variant: str
    version: int
    share: float
    answers: int
    answer_share: float | None
    workers: dict[str, int] = {}
    problem: str = ""


class ServerState(StrEnum):
    """How a server or a service is."""

    WELL = "well"
    NOT_READY = "not-ready"
    AWAY = "away"
    NOT_HERE = "not-here"
    """A service whose port the settings name, and that does not run: it may run elsewhere."""


class ServerNow(Struct, frozen=True, kw_only=True):
    """A server or a service.

    Attributes:
        detail: what is missing; "" where nothing is.
    """

    name: str
    address: str
    state: ServerState
    detail: str


class TrendNow(Struct, frozen=True, kw_only=True):
    """An item that trends.

    Attributes:
        counts: its decayed weighted events by half-life in milliseconds, as of now.
        per_hour: the rate that each of them stands for: an item that always had so many an hour
            would have this count.
    """

    item_id: str
    title: str
    counts: dict[str, float]
    per_hour: dict[str, float]


class TrendsNow(Struct, frozen=True, kw_only=True):
    """What trends.

    Attributes:
        half_lives_ms: ascending.
        ranked_by_ms: the half-life that items are ranked by.
    """

    half_lives_ms: list[int]
    ranked_by_ms: int
    items: list[TrendNow]


class NowAnswer(Struct, frozen=True, kw_only=True):
    """What happens now.

    Attributes:
        time: when it was looked at, in milliseconds.
        since: since when there is a history; None without any.
        recent_s: over how many seconds rates, and the age of what answers know, are told: ten, and
            60 where a Prometheus is asked.
        all_events: of all event types.
        answers_in_log, dead_letters_in_log: messages that their topics have now; None where Kafka
            does not say.
        latency: until an answer left for Kafka, over the last `minute`, `hour` and `day`.
        absorption: until a row held the event, over the same.
        missing: what cannot be told, by the part of this answer, and why.
        shape: another one wherever more than numbers have changed, so that a page is drawn anew.
    """

    time: int
    since: int | None
    all_events: Counted
    events: list[EventsNow]
    all_answers: Counted
    answers: list[AnswersNow]
    answers_in_log: int | None
    fallbacks: Counted
    requests: list[RequestsNow]
    dead_letters: list[RefusalsNow]
    dead_letters_in_log: int | None
    latency: dict[str, LatencyNow]
    knowledge: KnowledgeNow
    partitions: list[PartitionNow]
    versions: list[VersionNow]
    servers: list[ServerNow]
    trends: TrendsNow
    recent_s: int = 10
    absorption: dict[str, LatencyNow] = {}
    missing: dict[str, Problem] = {}
    shape: str = ""


class HistoryQuery(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which history is asked for."""

    span: Span = Span.HOUR


class Series(Struct, frozen=True, kw_only=True):
    """One line of a chart.

    Attributes:
        name: such as events.click, answers.stable, latency.p99, lag.clicks, knowledge.age.
        unit: `per_second`, `ms` or `count`.
        values: one for each of the answer's times; None where nothing was watched.
    """

    name: str
    unit: str
    values: list[float | None]


class HistoryAnswer(Struct, frozen=True, kw_only=True):
    """What happened in the last hour or day.

    Attributes:
        step_s: seconds between two times.
        times: the beginning of each step, in milliseconds.
    """

    span: Span
    step_s: int
    times: list[int]
    series: list[Series]


OPERATIONS = (
    Operation(
        "tell_now",
        "GET",
        "/v1/admin/now",
        "What happens now: events, answers, latency, lag, versions, servers, trends",
        NowAnswer,
        Scope.VIEW,
    ),
    Operation(
        "tell_history",
        "GET",
        "/v1/admin/history",
        "The last hour or day of what happened, as lines of a chart",
        HistoryAnswer,
        Scope.VIEW,
        query=HistoryQuery,
    ),
)
