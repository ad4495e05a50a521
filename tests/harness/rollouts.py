"""A rollout on real servers: controllers as processes, and people whose clicks are made up."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Producer
from headwater_client import EVENT_TYPES, Impression
from headwater_client.event_types import CLICK
from headwater_client.events import Click, Reason, Recommendation, RecommendedItem, Shadow, encode
from headwater_client.topics import PARTITIONER, RECOMMENDATIONS, SERVED

from bench.harness.processes import end_process
from deploy.jobs.train import load_candidate
from deploy.rollout import CommandRequest, RolloutSettings, sign_command
from deploy.rollout.commands import MAX_AGE_S
from deploy.rollout.topic import RolloutHistory, read_history, send_command
from deploy.settings import Settings
from features.inputs import MODEL_NAME
from features.kafka import client_config
from features.rollout_messages import Rollout, RolloutAction, RolloutStep, Variant
from features.schema import Vocabulary
from stream.routing import Routes
from tests.harness.workers import environment

TOKEN = "a token for tests of 32 characters"
QUICK: dict[str, object] = {
    "admin_token": TOKEN,
    "steps": "[0.1, 0.5]",
    "shadow_fraction": 0.5,
    "shadow_s": 1,
    "min_requests": 50,
    "min_shown": 200,
    "min_people": 20,
    "min_buckets": 10,
    "min_step_s": 0.5,
    "margin": 0.3,
    "max_harm": 0.5,
    "interval_s": 0.2,
}
PEOPLE = 640
PATIENCE_S = 60.0


def rollout_environment(settings: Settings, **rules: object) -> dict[str, str]:
    """The environment of a controller, or of a command to one."""
    chosen = {f"HEADWATER_ROLLOUT__{k.upper()}": str(v) for k, v in (QUICK | rules).items()}
    local = {
        "HEADWATER_LOCAL__STATE_DIR": str(settings.local.state_dir),
        "HEADWATER_MODEL_REPOSITORY": str(settings.model_repository),
    }
    return environment(settings, "controller") | chosen | local


def command(settings: Settings, *words: str, **rules: object) -> subprocess.CompletedProcess[str]:
    """Run `headwater rollout ...`."""
    return subprocess.run(
        [sys.executable, "-m", "deploy.cli", "rollout", *words],
        env=rollout_environment(settings, **rules),
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )


def rules(**changed: object) -> RolloutSettings:
    """Rules under which a rollout takes seconds."""
    chosen = {key: value for key, value in QUICK.items() if key != "steps"} | changed
    return RolloutSettings.model_validate({"steps": (0.1, 0.5), **chosen})


def send_action(
    settings: Settings,
    action: RolloutAction,
    version: int | None = None,
    answer_s: float = MAX_AGE_S,
) -> str:
    """What the controller answers to a command, which has to go well."""
    if version is not None:
        load_candidate(settings, version)
    seen = None if version else read_rollouts(settings).current
    request = CommandRequest(MODEL_NAME, action, "ann", "a test", version, seen=seen)
    return send_command(settings.kafka, sign_command(rules(), request), answer_s).reason


def steps(settings: Settings) -> list[dict[str, Any]]:
    """The history, as programs get it."""
    done = command(settings, "history", "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["steps"]
    return found


@contextmanager
def controlling(
    settings: Settings, log: Path, **rules: object
) -> Iterator[subprocess.Popen[bytes]]:
    """A controller process; ended at the end."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "controller"],
            env=rollout_environment(settings, **rules),
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        end_process(process)


def read_rollouts(settings: Settings) -> RolloutHistory:
    """What the topic says."""
    return read_history(settings.kafka, MODEL_NAME)


def until(
    settings: Settings, is_so: Callable[[RolloutHistory], bool], act: Callable[[], None]
) -> RolloutHistory:
    """Act until the topic says so."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        act()
        found = read_rollouts(settings)
        if is_so(found):
            return found
    newest = found.steps[-1] if found.steps else None
    raise AssertionError(f"still {found.current}, {newest.reason if newest else 'no step'}")


class People:
    """People who get recommendations as the newest rollout says, and click on some.

    Args:
        clicks: by variant, how likely a recommendation is clicked.
        failing: by variant, how likely its version fails.
        seen: of the lists, how many are seen and told of by impressions, of which alone something
            is clicked; None: nothing is told.
    """

    def __init__(
        self,
        settings: Settings,
        clicks: dict[str, float],
        failing: dict[str, float] | None = None,
        latency_ms: dict[str, float] | None = None,
        seen: float | None = None,
    ) -> None:
        self._settings = settings
        self._seen = seen
        self._clicks = clicks
        self._failing = failing or {}
        self._latency_ms = latency_ms or {}
        self._chance = random.Random(1)
        self._producer = Producer(
            client_config(settings.kafka) | {"partitioner": PARTITIONER, "linger.ms": "1"}
        )
        self._number = 0

    def act(self, count: int = 400) -> None:
        """So many recommendations, and a click on some of them a moment later."""
        current = read_rollouts(self._settings).current
        assert current
        routes = Routes(MODEL_NAME, load=lambda _: Vocabulary([]))
        routes.follow(current)
        acts = [self._make_recommendation(routes, current) for _ in range(count)]
        for number, answer in enumerate(acts):
            # By the stream and by the API.
            topic = SERVED if number % 2 else RECOMMENDATIONS
            self._producer.produce(topic, encode(answer), answer.user_id)
        self._producer.flush()
        time.sleep(0.01)
        if self._seen is not None:
            acts = [answer for answer in acts if self._chance.random() < self._seen]
            for answer in acts:
                self._tell_seen(answer)
            self._producer.flush()
            time.sleep(0.01)
        for answer in acts:
            if self._chance.random() < self._clicks.get(answer.variant, 0.1):
                self._click(answer)
        self._producer.flush()

    def _tell_seen(self, answer: Recommendation) -> None:
        impression = Impression(
            event_id=f"seen-{answer.recommendation_id}",
            user_id=answer.user_id,
            timestamp=int(time.time() * 1000),
            recommendation_id=answer.recommendation_id,
            position=2,
        )
        topic = EVENT_TYPES["impression"].topic
        self._producer.produce(topic, encode(impression), impression.user_id)

    def _click(self, answer: Recommendation) -> None:
        item = answer.items[self._chance.randrange(3)].item_id
        click = Click(
            event_id=f"click-{answer.recommendation_id}",
            user_id=answer.user_id,
            item_id=item,
            timestamp=int(time.time() * 1000),
            recommendation_id=answer.recommendation_id,
        )
        self._producer.produce(CLICK.topic, encode(click), click.user_id)

    def _make_recommendation(self, routes: Routes, current: Rollout) -> Recommendation:
        self._number += 1
        name = f"{self._chance.getrandbits(64):x}"
        user = f"u{self._chance.randrange(PEOPLE)}"
        routing = routes.assign(user)
        assert routing
        version = routing.shown.version
        items = [f"i{self._chance.randrange(150)}" for _ in range(3)]
        return Recommendation(
            recommendation_id=name,
            user_id=user,
            event_id=name,
            items=[
                RecommendedItem(item, 3.0 - at, Reason("trending")) for at, item in enumerate(items)
            ],
            model_version=str(version.version),
            variant=version.variant,
            event_time=current.time,
            produced_time=current.time,
            fallback=False,
            rollout_id=current.rollout_id,
            failed=self._failure(version.variant),
            latency_ms=self._latency_ms.get(version.variant, 20.0),
            shadow=self._shadow(items) if routing.shadow else None,
        )

    def _failure(self, variant: str) -> str:
        return "not numbers" if self._chance.random() < self._failing.get(variant, 0) else ""

    def _shadow(self, items: list[str]) -> Shadow:
        failed = self._failure(Variant.SHADOW)
        return Shadow(
            model_version="2",
            items=[] if failed else items,
            score=None if failed else 3.0,
            latency_ms=self._latency_ms.get(Variant.SHADOW, 20.0),
            failed=failed,
        )


def final_step(found: RolloutHistory, rollout_id: str) -> RolloutStep | None:
    """The last step of a rollout, once it has ended."""
    last = next(
        (one for one in reversed(found.steps) if one.rollout.rollout_id == rollout_id), None
    )
    return last if last and last.rollout.phase.is_terminal else None
