"""Every number on page "Now" is what the API, the metrics and the log say, on the real servers."""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from headwater_client import EVENT_TYPES, EventProducer
from headwater_client.admin.now import Span
from playwright.sync_api import Browser
from prometheus_client.parser import text_string_to_metric_families

from bench.harness.prometheus import Prometheus, run_prometheus
from deploy.console.history import SPANS
from features.kafka import client_config, describe_log, group_offsets, partition_bounds
from features.settings import BrokerSettings
from tests.harness.console import Console, Visit, running_console, visiting
from tests.harness.prometheus import find_program
from tests.harness.servers import asleep, pause
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.integration
PEOPLE, CLICKS, PURCHASES, BAD, ASKED = 12, 60, 15, 4, 3


def messages_of(kafka: BrokerSettings, topic: str) -> list[Any]:
    """All messages of a topic, read from its beginning."""
    options = {"group.id": "test-now", "enable.partition.eof": "true"}
    found, ended = [], set()
    with closing(Consumer(client_config(kafka) | options)) as consumer:
        numbers = consumer.list_topics(topic, timeout=10).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers])
        while len(ended) < len(numbers):
            for message in consumer.consume(500, 1.0):
                if message.error():
                    ended.add(message.partition())
                else:
                    found.append(json.loads(message.value()))
    return found


def metrics_of(console: Console) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What the worker tells Prometheus: by name, labels and value of each sample."""
    url = f"http://127.0.0.1:{console.settings.worker.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def sums(samples: list[tuple[dict[str, str], float]], *labels: str) -> dict[Any, float]:
    total: Counter[Any] = Counter()
    for named, value in samples:
        total[tuple(named[label] for label in labels)] += value
    return dict(total)


@pytest.fixture(scope="module")
def quiet(console: Console) -> dict[str, Any]:
    """What the console tells once events of all kinds are handled and nothing moves any more."""
    # What was counted before the first look is not known to be of the last hour.
    wait_until(lambda: console.call("GET", "/v1/admin/now")[0] == 200, 30)
    with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
        for number in range(CLICKS):
            producer.click(user_id=f"n{number % PEOPLE}", item_id=f"i{number * 7 % 50}")
        for number in range(PURCHASES):
            producer.purchase(user_id=f"n{number % PEOPLE}", item_id=f"i{number}")
    raw = Producer(client_config(console.settings.kafka))
    for _ in range(BAD):
        raw.produce("clicks", b'{"user_id": "n1"}', b"n1")
    raw.flush(10)
    for number in range(ASKED):
        console.take("POST", "/v1/recommendations", {"person": f"n{number}", "limit": 3})
    console.call("POST", "/v1/recommendations", {"person": "n1", "limit": 0})

    def is_quiet() -> bool:
        now = console.take("GET", "/v1/admin/now")
        handled = now["all_events"]["total"] + now["dead_letters_in_log"]
        told = now["all_events"]["total"] == now["all_events"]["hour"]
        return bool(
            now["knowledge"]["lag"] == 0 and handled >= CLICKS + PURCHASES + 2 * BAD and told
        )

    wait_until(is_quiet, 60)
    # What trends is read again now and then.
    last: dict[str, Any] = {}

    def stands_still() -> bool:
        nonlocal last
        before, last = last, console.take("GET", "/v1/admin/now")
        time.sleep(2.5)
        ids = [each["item_id"] for each in last["trends"]["items"]]
        return bool(
            before
            and ids
            and last["knowledge"]["age_ms"] == 0
            and before["all_answers"]["total"] == last["all_answers"]["total"]
            and ids == [each["item_id"] for each in before["trends"]["items"]]
        )

    wait_until(stands_still, 60)
    return console.take("GET", "/v1/admin/now")


def test_counts_are_those_of_the_metrics_and_of_the_log(
    console: Console, quiet: dict[str, Any]
) -> None:
    metrics, kafka = metrics_of(console), console.settings.kafka
    events = {each["topic"]: each for each in quiet["events"]}
    by_topic = sums(metrics["headwater_events_total"], "topic")
    assert {topic: events[topic]["total"] for (topic,) in by_topic} == {
        topic: count for (topic,), count in by_topic.items()
    }
    assert events["clicks"]["total"] == events["clicks"]["in_log"] == CLICKS + BAD
    assert events["purchases"]["total"] == events["purchases"]["in_log"] == PURCHASES
    assert quiet["all_events"]["total"] == CLICKS + BAD + PURCHASES
    for topic in ("clicks", "purchases", "items"):
        assert events[topic]["in_log"] == len(messages_of(kafka, topic)), topic
    # The console was there from the beginning of the worker's reading on.
    for each in quiet["events"]:
        if each["type"]:
            assert each["hour"] == each["day"] == each["total"], each


def test_answers_fallbacks_and_dead_letters_are_those_on_their_topics(
    console: Console, quiet: dict[str, Any]
) -> None:
    kafka, metrics = console.settings.kafka, metrics_of(console)
    answers = messages_of(kafka, "recommendations")
    on_topic = Counter((each["variant"], each.get("fallback", False)) for each in answers)
    told = {(each["variant"], each["fallback"]): each["total"] for each in quiet["answers"]}
    assert told == dict(on_topic)
    counted = sums(metrics["headwater_recommendations_total"], "variant", "fallback")
    assert {(v, f == "True"): count for (v, f), count in counted.items()} == told
    assert quiet["all_answers"]["total"] == quiet["answers_in_log"] == len(answers)
    fallbacks = sum(each.get("fallback", False) for each in answers)
    assert quiet["fallbacks"]["total"] == fallbacks
    letters = messages_of(kafka, "dead-letters")
    assert quiet["dead_letters_in_log"] == len(letters) == BAD
    by_topic = Counter(each["topic"] for each in letters)
    assert {each["topic"]: each["total"] for each in quiet["dead_letters"]} == dict(by_topic)


@pytest.mark.parametrize(
    ("part", "histogram", "observed"),
    [
        ("latency", "headwater_event_to_answer_seconds", None),
        ("absorption", "headwater_event_to_row_seconds", CLICKS + PURCHASES),
    ],
)
def test_quantiles_are_those_of_the_histogram(
    console: Console, quiet: dict[str, Any], part: str, histogram: str, observed: int | None
) -> None:
    samples = metrics_of(console)[f"{histogram}_bucket"]
    bounds = [0.0, *(float(labels["le"]) for labels, _ in samples)]
    counts = [0.0, *(value for _, value in samples)]
    latency = quiet[part]["hour"]
    # Events of one person that are read together have one answer.
    assert latency["count"] == counts[-1] == (observed or quiet["all_answers"]["total"])
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        # Within a bucket observations lie evenly, and the first begins at 0.
        rank = share * counts[-1]
        at = next(at for at, count in enumerate(counts) if count >= rank > 0)
        inside = (rank - counts[at - 1]) / (counts[at] - counts[at - 1])
        expected = bounds[at - 1] + inside * (bounds[at] - bounds[at - 1])
        expected = bounds[-2] if np.isinf(bounds[at]) else expected
        assert latency[name] == pytest.approx(1000 * expected)


def test_offsets_are_kafkas_own(console: Console, quiet: dict[str, Any]) -> None:
    kafka = console.settings.kafka
    identity = describe_log(kafka)
    bounds = partition_bounds(kafka, identity.sources)
    committed = group_offsets(kafka, console.settings.worker.group, identity)
    assert {
        (each["topic"], each["partition"]): (each["first"], each["end"], each["committed"])
        for each in quiet["partitions"]
    } == {source: (*bounds[source], committed.get(source)) for source in bounds}
    assert {each["lag"] for each in quiet["partitions"]} == {0}
    assert (quiet["knowledge"]["lag"], quiet["knowledge"]["age_ms"]) == (0, 0)


def test_versions_trends_and_requests_are_those_of_the_api(
    console: Console, quiet: dict[str, Any]
) -> None:
    versions = console.take("GET", "/version")["versions"]
    assert {each["variant"]: each["version"] for each in quiet["versions"]} == versions
    (stable,) = quiet["versions"]
    assert (stable["share"], stable["answer_share"], stable["problem"]) == (1.0, 1.0, "")
    assert set(stable["workers"].values()) == {stable["version"]}
    popular = console.take("GET", "/v1/popular?limit=10")["items"]
    trends = quiet["trends"]
    assert [each["item_id"] for each in trends["items"]] == [e["item_id"] for e in popular]
    ranked_by = str(trends["ranked_by_ms"])
    for item, known in zip(trends["items"], popular, strict=True):
        assert item["counts"][ranked_by] == pytest.approx(known["score"], rel=1e-3)
        per_hour = item["counts"][ranked_by] * np.log(2) / trends["ranked_by_ms"] * 3_600_000
        assert item["per_hour"][ranked_by] == pytest.approx(per_hour)
        assert item["title"]
    own = console.call("GET", "/metrics")[1]
    asked: Counter[str] = Counter()
    for family in text_string_to_metric_families(own):
        for sample in family.samples:
            if sample.name == "headwater_api_requests_total":
                asked[sample.labels["operation"]] += int(sample.value)
    (requests,) = [each for each in quiet["requests"] if each["operation"] == "recommend"]
    assert (requests["total"], requests["failed"]) == (asked["recommend"], 1)
    assert asked["recommend"] == ASKED + 1


def test_each_server_is_well(console: Console, quiet: dict[str, Any]) -> None:
    states = {each["name"]: (each["state"], each["detail"]) for each in quiet["servers"]}
    for name in ("kafka", "store", "triton", "worker"):
        assert states[name] == ("well", ""), states
    assert states["api"][0] == "not-here"
    assert quiet["missing"] == {}


def test_the_page_shows_exactly_these_numbers(
    console: Console, browser: Browser, quiet: dict[str, Any]
) -> None:
    with visiting(browser, console, "viewer") as visit:
        visit.go("/")
        now, shown = console.take("GET", "/v1/admin/now"), numbers_of(visit)
        stands = {path: value for path, value in shown.items() if not moves(path)}
        assert stands.keys() >= {
            "events.0.total",
            "answers.0.total",
            "all_answers.total",
            "fallbacks.total",
            "dead_letters_in_log",
            "dead_letters.0.total",
            "latency.hour.p50_ms",
            "latency.day.p99_ms",
            "absorption.hour.p99_ms",
            "knowledge.lag",
            "versions.0.share",
            "partitions.0.end",
            "requests.0.total",
        }
        for path, value in stands.items():
            assert value == find(now, path), path
        assert visit.faults == []


LIGHT_AND_DARK = ("light", "dark")
# Where clocks are three and a half hours behind UTC.
FAR_AWAY = {"timezone_id": "America/St_Johns", "locale": "en-US"}
NOTE_TEXTS = """() => {
    window.drawn = [];
    const draw = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
        window.drawn.push(text);
        return draw.call(this, text, ...rest);
    };
}"""


def test_lines_and_numbers_move_while_people_click(console: Console, browser: Browser) -> None:
    with visiting(browser, console, "viewer") as visit:
        visit.go("/")
        visit.page.wait_for_selector("[data-chart='events'] canvas")
        before = numbers_of(visit)["events.0.total"]
        with console.replaying():
            wait_until(lambda: numbers_of(visit)["events.0.total"] > before, 60)
        assert pressed_of(visit) == {"hour": True, "day": False}
        visit.page.click("[data-span='day']")
        visit.page.wait_for_selector("[data-span='day'][aria-pressed='true']")
        assert visit.page.inner_text("#span-name") == "day"
        assert visit.page.locator("[data-chart] canvas").count() == 4
        assert pressed_of(visit) == {"hour": False, "day": True}
        assert visit.faults == []
    wait_until(lambda: console.take("GET", "/v1/admin/now")["knowledge"]["lag"] == 0, 60)


def pressed_of(visit: Visit) -> dict[str, bool]:
    """Which span is pressed, as everyone can see: in each theme it alone is filled, and legible."""
    told: list[dict[str, bool]] = []
    for theme in LIGHT_AND_DARK:
        visit.page.emulate_media(color_scheme=theme)  # type: ignore[arg-type]
        filled = visit.page.evaluate(
            """() => [...document.querySelectorAll("[data-span]")].map((each) =>
                [each.dataset.span, getComputedStyle(each).backgroundColor])"""
        )
        told.append({name: shown != "rgba(0, 0, 0, 0)" for name, shown in filled})
        assert visit.find_faults("color-contrast") == []
    assert told[0] == told[1]
    return told[0]


def test_charts_tell_times_in_utc_by_24_hours(
    console: Console, browser: Browser, quiet: dict[str, Any]
) -> None:
    """Wherever the browser is: as the page, which says so."""
    with visiting(browser, console, "viewer", **FAR_AWAY) as visit:
        visit.page.add_init_script(f"({NOTE_TEXTS})()")
        visit.go("/")
        visit.page.wait_for_selector("[data-chart='events'] canvas")
        history = console.take("GET", "/v1/admin/history?span=hour")
        first, last = history["times"][0], history["times"][-1]
        minutes = {written(time_ms)[11:16] for time_ms in range(first, last + 120_000, 1000)}
        ticks = [each for each in visit.page.evaluate("drawn") if ":" in each]
        assert ticks
        assert {each[:5] for each in ticks} <= minutes
        days = [each for each in visit.page.evaluate("drawn") if "-" in each]
        assert set(days) <= {written(first)[:10], written(last)[:10]}
        visit.page.hover("[data-chart='events'] .u-over")
        under = visit.page.locator("[data-chart='events'] .u-legend .u-value").first
        wait_until(lambda: under.inner_text().endswith(" UTC"), 10)
        moment = under.inner_text().removesuffix(" UTC")
        assert written(first) <= moment <= written(last + 120_000)
        assert visit.faults == []


def written(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}"


def test_the_age_of_what_answers_know_is_what_the_worker_measures(
    console: Console, quiet: dict[str, Any]
) -> None:
    """In a stream of events it is how long they took into rows, whatever is committed by then."""
    wait_until(lambda: age_of(console) == 0, 60)
    seen: dict[int, int] = {}

    def has_moved() -> bool:
        now = console.take("GET", "/v1/admin/now")
        seen[now["time"]] = now["knowledge"]["age_ms"]
        return sum(age > 0 for age in seen.values()) >= 5

    with console.replaying():
        wait_until(has_moved, 60)
    samples = metrics_of(console)["headwater_event_to_row_seconds_bucket"]
    slowest_s = min(float(labels["le"]) for labels, count in samples if count == samples[-1][1])
    assert max(seen.values()) <= 1000 * slowest_s
    # While nobody does anything nothing grows old.
    wait_until(lambda: age_of(console) == 0, 60)


def test_events_that_no_row_holds_grow_old(console: Console, quiet: dict[str, Any]) -> None:
    wait_until(lambda: age_of(console) == 0, 60)
    with asleep(console.local, "store"):
        with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
            producer.click(user_id="n1", item_id="i2")
        wait_until(lambda: age_of(console) > 0, 60)
        first = age_of(console)
        wait_until(lambda: age_of(console) > first, 60)
        partitions = console.take("GET", "/v1/admin/now")["partitions"]
        (waits,) = [each for each in partitions if each["age_ms"]]
        assert (waits["topic"], waits["lag"]) == ("clicks", 1)
    wait_until(lambda: age_of(console) == 0, 60)


def age_of(console: Console) -> int:
    return int(console.take("GET", "/v1/admin/now")["knowledge"]["age_ms"])


def test_the_history_has_all_that_was_counted(console: Console, quiet: dict[str, Any]) -> None:
    now = console.take("GET", "/v1/admin/now")
    for span in ("hour", "day"):

        def is_whole(span: str = span) -> bool:
            # A history is read anew with its next step.
            found = console.take("GET", f"/v1/admin/history?span={span}")
            series = {each["name"]: each["values"] for each in found["series"]}
            assert len({len(values) for values in series.values()} | {len(found["times"])}) == 1
            known = [value for values in series.values() for value in values if value is not None]
            assert min(known) >= 0
            names = {
                f"events.{each['type']}" for each in now["events"] if each["type"] and each["hour"]
            }
            return all(any(series.get(name, ())) for name in (*names, "answers.all", "latency.p99"))

        wait_until(is_whole, 30)
    status, problem = console.call("GET", "/v1/admin/history?span=week")
    assert (status, problem["field"]) == (400, "span")


def test_a_server_that_is_away_is_told_and_the_rest_stays(
    console: Console, quiet: dict[str, Any]
) -> None:
    def state_of(name: str) -> str:
        now = console.take("GET", "/v1/admin/now")
        assert now["all_answers"]["total"] >= quiet["all_answers"]["total"]
        return str({each["name"]: each["state"] for each in now["servers"]}[name])

    with asleep(console.local, "triton"):
        wait_until(lambda: state_of("triton") == "away", 60)
    wait_until(lambda: state_of("triton") == "well", 60)


def test_types_of_events_are_told_by_their_names(quiet: dict[str, Any]) -> None:
    types = {each["topic"]: each["type"] for each in quiet["events"] if each["type"]}
    assert types == {spec.topic: name for name, spec in EVENT_TYPES.items()}


def moves(path: str) -> bool:
    """Whether a number changes though nothing happens: rates, the last minute, what fades."""
    return "per_second" in path or "minute" in path or path.startswith("trends.")


def find(answer: Any, path: str) -> Any:
    for name in path.split("."):
        answer = answer[int(name)] if isinstance(answer, list) else answer[name]
    return answer


def numbers_of(visit: Visit) -> dict[str, float]:
    """The exact value of each number on the page, by where the answer has it."""
    script = """() => [...document.querySelectorAll("[data-now]")]
        .filter((each) => each.querySelector("data"))
        .map((each) => [each.dataset.now, Number(each.querySelector("data").value)])"""
    return dict(visit.page.evaluate(script))


@pytest.fixture(scope="module")
def asking(
    console: Console, quiet: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Console, Prometheus]]:
    """A second console on the same servers: it asks a Prometheus that scrapes the worker."""
    folder = tmp_path_factory.mktemp("prometheus")
    worker = f"127.0.0.1:{console.settings.worker.metrics_port}"
    find_program("prometheus")
    with run_prometheus(folder, {"headwater": [worker]}) as prometheus:
        chosen = {"prometheus_url": prometheus.url}
        with running_console(console.local, console.settings, folder, chosen) as other:
            wait_until(lambda: now_of(other).get("all_events", {}).get("total", 0) > 0, 60)
            yield other, prometheus


def now_of(console: Console) -> dict[str, Any]:
    found: dict[str, Any] = console.call("GET", "/v1/admin/now")[1]
    return found


def test_what_a_prometheus_says_is_what_the_page_says(
    console: Console, asking: tuple[Console, Prometheus]
) -> None:
    other, prometheus = asking
    step_s = SPANS[Span.DAY].step_s
    if (left_s := step_s - time.time() % step_s) < 60:
        # All of it is to be in one step of the day.
        time.sleep(left_s + 1)
    # Of a moment for which Prometheus has the worker: a scrape that it missed leaves a gap.
    moments = [0]

    def knows_worker() -> bool:
        moments[0] = int(time.time())
        return bool(prometheus.ask(f"headwater_event_to_row_seconds_count @ {moments[0]}"))

    wait_until(knows_worker, 60)
    began_s, before = moments[0], now_of(other)["all_events"]["total"]
    with console.replaying():
        wait_until(lambda: now_of(other)["all_events"]["total"] > before + 40, 60)
    with EventProducer(console.settings.kafka.client_settings, {"log_level": 0}) as producer:
        for number in range(PURCHASES):
            producer.purchase(user_id=f"n{number % PEOPLE}", item_id=f"i{number}")

    wait_until(lambda: is_settled(console, other, prometheus), 60)
    now = now_of(other)

    def make_growth(metric: str) -> str:
        return f"({metric} - ({metric} @ {began_s}))"

    check_counts(now, prometheus, make_growth)
    shares = {"p50_ms": 0.5, "p99_ms": 0.99}
    quantiles = {}
    for part, histogram in (("latency", "answer"), ("absorption", "row")):
        buckets = make_growth(f"headwater_event_to_{histogram}_seconds_bucket")
        for name, share in shares.items():
            asked = f"histogram_quantile({share}, sum by (le) {buckets})"
            quantiles[part, name] = 1000 * prometheus.ask_one(asked)
            for span in ("hour", "day"):
                assert now[part][span][name] == pytest.approx(quantiles[part, name])
    answered = prometheus.ask("headwater_routed_version")
    (stable,) = now["versions"]
    assert list(stable["workers"].values()) == list(answered.values()) == [stable["version"]]
    assert (now["recent_s"], now["missing"]) == (60, {})

    # The history of a day: what it has of this step is what Prometheus has.
    history = other.take("GET", "/v1/admin/history?span=day")
    lines = {each["name"]: each["values"] for each in history["series"]}
    (at,) = [at for at, value in enumerate(lines["answers.all"]) if value]
    for name, share in (("latency.p50", "p50_ms"), ("latency.p99", "p99_ms")):
        assert lines[name][at] == pytest.approx(quantiles["latency", share])
    by_topic = prometheus.ask(f"sum by (topic) {make_growth('headwater_events_total')}")
    answers = prometheus.ask_one(f"sum{make_growth('headwater_recommendations_total')}")
    # Each rate is a count by the same time.
    watched_s = by_topic["clicks"] / lines["events.click"][at]
    assert watched_s <= step_s
    assert lines["events.purchase"][at] * watched_s == pytest.approx(by_topic["purchases"])
    assert lines["answers.all"][at] * watched_s == pytest.approx(answers)


def is_settled(console: Console, other: Console, prometheus: Prometheus) -> bool:
    """All is answered, and Prometheus and the console that asks it have it from the worker."""
    now, metrics = now_of(other), metrics_of(console)
    told = {
        "headwater_events_total": sum_totals(now["events"]),
        "headwater_recommendations_total": now["all_answers"]["total"],
    }
    return now["knowledge"]["lag"] == 0 and all(
        total == prometheus.ask_one(f"sum({metric})") == sum(value for _, value in metrics[metric])
        for metric, total in told.items()
    )


def check_counts(
    now: dict[str, Any], prometheus: Prometheus, make_growth: Callable[[str], str]
) -> None:
    """What is counted in all, and what is since a moment, is what Prometheus says.

    Args:
        make_growth: the query for what a counter grew by since then.
    """
    for metric, label, told in (
        ("headwater_events_total", "topic", now["events"]),
        ("headwater_recommendations_total", "variant", now["answers"]),
        ("headwater_dead_letters_total", "topic", now["dead_letters"]),
    ):
        totals: Counter[str] = Counter()
        hours: Counter[str] = Counter()
        for each in told:
            totals[each[label]] += each["total"]
            hours[each[label]] += each["hour"]
            assert each["day"] == each["hour"]
        there = prometheus.ask(f"sum by ({label}) ({metric})")
        assert there == {name: totals[name] for name in there}
        lately = prometheus.ask(f"sum by ({label}) {make_growth(metric)}")
        assert lately == {name: hours[name] for name in lately}


def sum_totals(counted: list[dict[str, Any]]) -> int:
    return sum(each["total"] for each in counted)


def test_a_prometheus_that_is_away_is_named_and_the_rest_stays(
    asking: tuple[Console, Prometheus],
) -> None:
    other, prometheus = asking
    with pause(prometheus.pid):
        wait_until(lambda: "events" in now_of(other).get("missing", {}), 60)
        now = now_of(other)
        assert "console.prometheus_url" in now["missing"]["events"]["detail"]
        assert now["partitions"]
        states = {each["name"]: each["state"] for each in now["servers"]}
        assert states["kafka"] == "well"
    wait_until(lambda: now_of(other)["missing"] == {}, 60)
