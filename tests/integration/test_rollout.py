"""The rollout controller on the real servers; what people click is made up."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Producer
from headwater_client import EventProducer, RecommendationConsumer
from headwater_client.errors import ServerError
from headwater_client.event_types import CLICK
from headwater_client.events import Click, encode
from headwater_client.topics import RECOMMENDATIONS, ROLLOUT_COMMANDS, ROLLOUTS, SERVED
from msgspec.structs import replace as replace_fields

from bench.harness.processes import end_process, variables_of
from deploy import local
from deploy.jobs.train import model_registry
from deploy.local.process import free_port
from deploy.rollout import (
    CommandRejectedError,
    CommandRequest,
    is_reproducible,
    sign_command,
    topic,
)
from deploy.rollout.history import read_recorded
from deploy.rollout.topic import RolloutHistory, send_command
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.kafka import client_config, ensure_topics
from features.rollout_messages import (
    EvidenceSample,
    Rollout,
    RolloutAction,
    RolloutLease,
    RolloutPhase,
    RolloutStep,
    command_key,
)
from features.rollouts import RolloutView
from features.schema import FeatureSchema
from features.topics import partition_of
from tests.harness.models import SETTINGS, untrained
from tests.harness.probes import ask, is_ready, missing
from tests.harness.rollouts import (
    People,
    command,
    controlling,
    final_step,
    read_rollouts,
    rollout_environment,
    rules,
    send_action,
    steps,
    until,
)
from tests.harness.servers import asleep, state_in
from tests.harness.waiting import wait_until
from tests.harness.workers import WorkerProcess, running

pytestmark = pytest.mark.integration
ALIKE = {"canary": 0.3, "baseline": 0.3}
WORSE = {"canary": 0.02, "baseline": 0.3}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Servers with two versions, of which the first is live."""
    with state_in(tmp_path_factory.mktemp("rollout")) as own:
        settings = local.up(own)
        ensure_topics(settings.kafka)
        schema = FeatureSchema(settings.features)
        with closing(model_registry(settings, SETTINGS)) as registry:
            registry.publish(untrained(schema, 1))
            registry.write_version(untrained(schema, 2))
        yield settings


def announce_first(settings: Settings) -> None:
    with closing(model_registry(settings)) as registry:
        registry.announce(registry.repository.version(1))


@pytest.fixture
def fresh(servers: Settings) -> Settings:
    """The first version is what everyone gets."""
    announce_first(servers)
    return servers


def test_without_a_controller_a_command_says_so(fresh: Settings) -> None:
    with pytest.raises(ServerError, match=r"in 1 s: run one: headwater controller"):
        send_action(fresh, RolloutAction.ROLLBACK, answer_s=1.0)


def test_the_course_of_a_rollout_goes_on_with_the_next_controller(
    fresh: Settings, tmp_path: Path
) -> None:
    """What the band was is read from the topic, not from the log of events."""
    archive, people = topic.RolloutArchive(fresh.kafka, MODEL_NAME), People(fresh, ALIKE)

    def list_bounded(found: RolloutHistory) -> list[EvidenceSample]:
        assert found.current
        kept = found.courses.get(found.current.rollout_id)
        return [each for each in kept.samples if each.lower is not None] if kept else []

    def is_further(now: RolloutHistory) -> bool:
        samples = list_bounded(now)
        return len(samples) > len(before) + 1 and samples[-1].events > before[-1].events

    never = {"min_step_s": 3600, "interval_s": 0.2}
    with closing(archive):
        with controlling(fresh, tmp_path / "first.log", **never) as first:
            start_rollout(fresh)
            found = until(fresh, lambda now: len(list_bounded(now)) >= 2, people.act)
            before = list_bounded(found)
            assert archive.read()[MODEL_NAME].courses == found.courses
            first.kill()
        with controlling(fresh, tmp_path / "second.log", **never):
            found = until(fresh, is_further, people.act)
            after = list_bounded(found)
            assert after[: len(before)] == before
            assert [each.time for each in after] == sorted(each.time for each in after)
            assert all(each.lower < each.estimate < each.upper for each in after)  # type: ignore[operator]
            assert after[-1].events > before[-1].events > 0
            assert after[-1].error < before[0].error  # type: ignore[operator]
            assert archive.read()[MODEL_NAME].steps == found.steps
            assert found.current
            kept = found.courses[found.current.rollout_id]
            recorded = read_recorded(kept.inputs, "the course")
            assert recorded.replay().reason == kept.reason == "goes on"
            send_action(fresh, RolloutAction.ROLLBACK)


LEASE_S, READY_S = 30, 120
NEEDED = {"controller": {"kafka", "store", "triton"}, "worker": {"kafka", "store"}}
NEEDED_LATER = {"trainer": {"kafka", "triton"}, "writer": {"kafka"}}
NOBODY_CLICKS = dict.fromkeys(("canary", "baseline", "stable", "shadow"), 0.0)


@pytest.mark.timeout(400)
def test_a_canary_that_nobody_watches_ends_and_probes_name_what_sleeps(
    fresh: Settings, tmp_path: Path
) -> None:
    """A worker through a whole lease; meanwhile each service says what it lacks."""
    ports: dict[str, int] = {}
    for name in (*NEEDED, *NEEDED_LATER):
        ports[name] = free_port(ports.values())
    log = tmp_path / "worker.log"
    worker = WorkerProcess(
        fresh, "watched", log, metrics_port=ports["worker"], rollout_lease_s=LEASE_S
    )
    with ExitStack() as stack:
        controller = stack.enter_context(
            controlling(fresh, tmp_path / "controller.log", metrics_port=ports["controller"])
        )
        stack.enter_context(running(worker))
        check_probes(fresh, ports, NEEDED)
        start_rollout(fresh)
        # Who clicks nothing gives nothing to decide on: the canary stays.
        people = People(fresh, NOBODY_CLICKS)
        until(
            fresh,
            lambda _: routed_versions(ports["worker"]) == {"stable": 1, "canary": 2},
            people.act,
        )
        controller.kill()
        for name in NEEDED_LATER:
            stack.enter_context(service(fresh, name, ports[name], tmp_path / f"{name}.log"))
        check_probes(fresh, ports, NEEDED_LATER)
        wait_until(lambda: metrics(ports["worker"])["headwater_rollout_lease_expired"] == 1, 60)
        assert routed_versions(ports["worker"]) == {"stable": 1}
        assert f"renewed it for {LEASE_S} s: everyone gets the stable version" in log.read_text()
        assert answered_by(fresh) == {"stable"}


def check_probes(
    settings: Settings, ports: Mapping[str, int], needed: Mapping[str, set[str]]
) -> None:
    """Services are ready; while all servers sleep each names those that it needs; and ready again.

    Args:
        needed: by service, the servers.
    """

    def are_ready() -> bool:
        return all(is_ready(ports[name]) for name in needed)

    wait_until(are_ready, READY_S)
    with asleep(settings, *local.NAMES), ThreadPoolExecutor() as pool:
        found = pool.map(missing, (ports[name] for name in needed))
        for name, lacked in zip(needed, found, strict=True):
            assert lacked.keys() & set(local.NAMES) == needed[name], (name, lacked)
            assert ask(ports[name], "/livez")[0] == 200, name
    wait_until(are_ready, READY_S)


COMMANDS = {"trainer": ("trainer",), "writer": ("windows", "write")}


@contextmanager
def service(settings: Settings, name: str, port: int, log: Path) -> Iterator[None]:
    """A trainer, or a writer of windows, with probes."""
    folder = log.with_suffix(".windows")
    variables = rollout_environment(settings) | variables_of(
        {
            "trainer.metrics_port": port,
            "trainer.language_model": "",
            "trainer.width": SETTINGS.width,
            "windows.address": folder,
            "windows.group": f"windows-{name}",
        }
    )
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", *COMMANDS[name]],
            env=variables,
            stdout=out,
            stderr=out,
        )
    try:
        yield
    finally:
        end_process(process)


def metrics(port: int) -> dict[str, float]:
    lines = ask(port, "/metrics")[1].splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def routed_versions(port: int) -> dict[str, int]:
    """The version that a worker has for each variant; a baseline is another name for stable."""
    found = metrics(port)
    names = {name: f'headwater_routed_version{{variant="{name}"}}' for name in ("stable", "canary")}
    return {name: int(found[line]) for name, line in names.items() if line in found}


def answered_by(settings: Settings) -> set[str]:
    """The variants that people are answered by."""
    kafka = settings.kafka.client_settings
    with EventProducer(kafka) as events, RecommendationConsumer(kafka) as answers:
        sent = {events.click(user_id=f"p{n}", item_id="i0").event_id for n in range(40)}
        events.flush()
        found: dict[str, str] = {}

        def is_answered() -> bool:
            answer = answers.receive(1.0)
            if answer is not None and answer.event_id in sent:
                found[answer.event_id] = answer.variant
            return len(found) == len(sent)

        wait_until(is_answered, 30)
    return set(found.values())


@pytest.fixture(scope="module")
def controller(servers: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with controlling(servers, tmp_path_factory.mktemp("controller") / "log"):
        yield


@pytest.fixture
def shop(fresh: Settings, controller: None) -> Settings:
    return fresh


def start_rollout(settings: Settings) -> str:
    """Start a rollout of the second version; its id."""
    return send_action(settings, RolloutAction.START, 2).split()[1]


def verdict(settings: Settings, name: str, people: People) -> list[RolloutStep]:
    """The steps of a rollout, once people have acted until it ended."""
    found = until(settings, lambda now: final_step(now, name) is not None, people.act)
    return [one for one in found.steps if one.rollout.rollout_id == name]


def test_one_as_good_is_promoted_step_by_step(shop: Settings) -> None:
    name = start_rollout(shop)
    mine = verdict(shop, name, People(shop, ALIKE))
    states = [one.rollout.phase for one in mine]
    assert (states[0], states[-1]) == ("shadow", "promoted"), [one.reason for one in mine]
    assert RolloutPhase.RUNNING in states
    current = read_rollouts(shop).current
    assert current
    assert [each.version for each in current.versions] == [2]
    # Each decision is there with what it was taken on, and is taken alike again.
    assert all("figures" in one.inputs and is_reproducible(one) for one in mine[1:])
    assert (mine[0].actor, mine[0].reason) == ("ann", "a test")


def test_history_shows_each_decision_with_its_figures(shop: Settings) -> None:
    rows = steps(shop)
    last = next(row for row in reversed(rows) if row["state"] == "promoted")
    figures = last["inputs"]["figures"]
    assert sum(figures["canary"]["shown"]) >= 200
    assert last["effect"]["error"] > 0
    assert all(row["replayed_alike"] for row in rows)
    shown = command(shop, "history")
    assert "promoted" in shown.stdout


def test_a_worse_one_is_rolled_back_by_what_people_have_seen(shop: Settings) -> None:
    assert "were sent" in json.loads(command(shop, "status", "--json").stdout)["counted"]
    last = verdict(shop, start_rollout(shop), People(shop, WORSE, seen=0.5))[-1]
    assert last.rollout.phase is RolloutPhase.ROLLED_BACK
    assert last.reason.startswith("worse: reward -")
    assert [each.version for each in last.rollout.versions] == [1]
    figures = last.inputs["figures"]
    assert figures["of_seen"]
    assert sum(figures["canary"]["shown"]) < 0.7 * figures["canary_health"]["requests"]
    assert "count the lists that people have seen" in command(shop, "status").stdout


@pytest.mark.parametrize(
    ("failing", "latency_ms", "why"),
    [({"shadow": 0.5}, {}, "errors"), ({}, {"shadow": 150.0}, "slow")],
)
def test_what_fails_unseen_is_shown_to_nobody(
    shop: Settings, failing: dict[str, float], latency_ms: dict[str, float], why: str
) -> None:
    mine = verdict(shop, start_rollout(shop), People(shop, {}, failing, latency_ms))
    assert [one.rollout.phase for one in mine] == ["shadow", "rolled_back"]
    assert mine[-1].reason.startswith(why)


def test_people_steer_it_and_leave_their_name(shop: Settings) -> None:
    start_rollout(shop)
    assert "is paused" in send_action(shop, RolloutAction.PAUSE)
    assert "is shadow" in send_action(shop, RolloutAction.RESUME)
    with pytest.raises(CommandRejectedError, match="resume: the rollout is shadow"):
        send_action(shop, RolloutAction.RESUME)
    done = command(shop, "promote", "--by", "bob", "--reason", "it is Friday")
    assert "is promoted" in done.stdout, done.stderr
    last = read_rollouts(shop).steps[-1]
    assert (last.actor, last.reason) == ("bob", "it is Friday")
    People(shop, {"stable": 1.0}).act(20)
    before = json.loads(command(shop, "status", "--json").stdout)
    assert [each["version"] for each in before["versions"]] == [2]
    assert (before["reason"], before["interactions"]["elsewhere"]) == ("it is Friday", 0)
    partitions = shop.kafka.partitions
    elsewhere = (partition_of("eve", partitions) + 1) % partitions
    click = Click(event_id="c", user_id="eve", item_id="i", timestamp=int(time.time() * 1000))
    producer = Producer(client_config(shop.kafka))
    producer.produce(CLICK.topic, encode(click), "a shop", partition=elsewhere)
    assert producer.flush(10) == 0
    lines = command(shop, "status").stdout
    assert "bob: it is Friday" in lines
    assert before["interactions"]["sampled"] >= 20
    assert "\n1 of the newest " in lines
    assert "another partition" in lines


def test_a_rollout_right_after_another_counts_anew(shop: Settings) -> None:
    name = start_rollout(shop)
    people = People(shop, {})
    until(shop, lambda now: _count_requests(now.steps, name) > 0, people.act)
    send_action(shop, RolloutAction.PROMOTE)
    second = send_action(shop, RolloutAction.START, 1).split()[1]
    people.act(60)
    found = until(shop, lambda now: _count_requests(now.steps, second) > 0, lambda: people.act(10))
    assert _count_requests(found.steps, second) < 200
    send_action(shop, RolloutAction.ROLLBACK)


def _count_requests(steps_: list[RolloutStep], name: str) -> int:
    """Requests that the newest decision of a rollout was taken on."""
    mine = [one for one in steps_ if one.rollout.rollout_id == name and "figures" in one.inputs]
    return int(mine[-1].inputs["figures"]["canary_health"]["requests"]) if mine else 0


def test_what_makes_no_sense_is_refused_and_changes_nothing(shop: Settings) -> None:
    start_rollout(shop)
    before = read_rollouts(shop).current
    _write(shop, command_key(MODEL_NAME, "x1"), b'{"command_id": "x1", "action": "explode"}')
    _write(shop, MODEL_NAME, b'{"model": "temporal_llm", "versions": []}')
    with pytest.raises(CommandRejectedError, match="promote it or roll it back first"):
        send_action(shop, RolloutAction.START, 2)
    with pytest.raises(CommandRejectedError, match=r"version 9: is not in .*: there: 1, 2"):
        send_action(shop, RolloutAction.START, 9)
    for token, line in ((None, "set rollout.admin_token"), ("wrong", "another admin token")):
        promote = CommandRequest(MODEL_NAME, RolloutAction.PROMOTE, "ann", "x")
        with pytest.raises(CommandRejectedError, match=line):
            send_command(shop.kafka, sign_command(rules(admin_token=token), promote))
    with pytest.raises(CommandRejectedError, match="a name and a reason"):
        sign_command(rules(), CommandRequest(MODEL_NAME, RolloutAction.PROMOTE, " ", "a test"))
    done = command(shop, "start", "9", "--by", "ann", "--reason", "a test")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith("headwater: start: version 9: is not in")
    assert read_rollouts(shop).current == before
    send_action(shop, RolloutAction.ROLLBACK)
    assert any("another admin token" in answer.reason for answer in read_rollouts(shop).rejected)


def test_a_command_is_taken_by_the_rollout_that_it_was_meant_for(shop: Settings) -> None:
    start_rollout(shop)
    seen = read_rollouts(shop).current
    promote = sign_command(
        rules(), CommandRequest(MODEL_NAME, RolloutAction.PROMOTE, "ann", "8 is fine", seen=seen)
    )
    send_action(shop, RolloutAction.ROLLBACK)
    name = start_rollout(shop)
    with pytest.raises(CommandRejectedError, match=f"but {name} is under way"):
        send_command(shop.kafka, promote)
    with pytest.raises(CommandRejectedError, match=f"but {name} is under way"):
        send_command(shop.kafka, promote)
    done = command(shop, "promote", "7", "--by", "bob", "--reason", "a test")
    assert "version 7 is not tried out: version 2 is" in done.stderr
    current = read_rollouts(shop).current
    assert current
    assert (current.rollout_id, current.phase) == (name, "shadow")
    done = command(shop, "rollback", "2", "--by", "bob", "--reason", "a test")
    assert "is rolled_back" in done.stdout, done.stderr


def test_a_start_whose_answer_was_lost_is_the_same_start(shop: Settings) -> None:
    request = CommandRequest(MODEL_NAME, RolloutAction.START, "ann", "x", 2, command_id="s-2")
    first = send_command(shop.kafka, sign_command(rules(), request))
    assert send_command(shop.kafka, sign_command(rules(), request)) == first
    version = read_rollouts(shop).current
    assert version
    candidate = version.candidate
    assert candidate
    again = replace(request, command_id="", address=candidate.address)
    answer = send_command(shop.kafka, sign_command(rules(), again))
    assert answer.reason == f"rollout {version.rollout_id} is shadow"
    # A command that is written again is known, and one of before stands on `rollouts`.
    recorded = encode(sign_command(rules(), request))
    key = command_key(MODEL_NAME, "s-2")
    for name in (ROLLOUT_COMMANDS, ROLLOUTS):
        _write(shop, key, recorded, name)
    old = sign_command(rules(), CommandRequest(MODEL_NAME, RolloutAction.ROLLBACK, "ann", "old"))
    _write(shop, command_key(MODEL_NAME, old.command_id), encode(old))
    found = until(shop, lambda now: final_step(now, version.rollout_id) is not None, lambda: None)
    assert [one.reason for one in found.steps if one.rollout.rollout_id == version.rollout_id] == [
        "x",
        "old",
    ]


def test_what_others_write_ends_no_controller_and_is_put_right(shop: Settings) -> None:
    name = start_rollout(shop)
    before = read_rollouts(shop).current
    assert before
    step = RolloutStep(rollout=before, actor="mallory", reason="why not")
    older = replace_fields(before, revision=1, versions=before.versions[:1])
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    for key, value in {
        MODEL_NAME: encode(older),
        f"{MODEL_NAME}/history/{name}/000007": encode(step),
        f"{MODEL_NAME}/history/{name}/000008": deep,
        f"{MODEL_NAME}/answer/x": deep,
        f"{MODEL_NAME}/lease": b"[]",
    }.items():
        _write(shop, key, value)
    # Who counts feedback meets it too.
    for topic_name in (CLICK.topic, RECOMMENDATIONS, SERVED):
        _write(shop, "u1", deep, topic_name)
    found = until(
        shop, lambda now: not now.refusal and _revision(now.current) > before.revision, lambda: None
    )
    assert found.current == replace_fields(before, revision=_revision(found.current))
    assert any("chain broken" in each for each in found.breaks)
    assert "is rolled_back" in send_action(shop, RolloutAction.ROLLBACK)
    assert "chain broken" in command(shop, "history").stderr


def test_a_controller_says_that_it_watches(shop: Settings) -> None:
    name = start_rollout(shop)
    with closing(RolloutView(shop.kafka, MODEL_NAME)) as view:
        found: list[str] = []
        until(
            shop,
            lambda _: name in found,
            lambda: found.extend(
                each.rollout_id for each in view.read() if isinstance(each, RolloutLease)
            ),
        )
    send_action(shop, RolloutAction.ROLLBACK)


def _revision(rollout: Rollout | None) -> int:
    return rollout.revision if rollout else 0


def test_an_announcement_to_everyone_ends_a_trial(shop: Settings) -> None:
    name = start_rollout(shop)
    announce_first(shop)
    found = until(shop, lambda now: final_step(now, name) is not None, lambda: None)
    last = final_step(found, name)
    assert last
    assert last.reason.startswith("overtaken")
    assert found.current
    assert found.current.rollout_id == ""


def _write(settings: Settings, key: str, value: bytes, name: str = ROLLOUTS) -> None:
    producer = Producer(client_config(settings.kafka))
    producer.produce(name, value, key)
    assert producer.flush(10) == 0
