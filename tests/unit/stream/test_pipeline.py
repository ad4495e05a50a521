"""Nobody waits for a version on trial, and still answers and batches keep their order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from headwater_client.events import Click, Recommendation
from headwater_client.tracing import Headers
from prometheus_client import REGISTRY

from features.rows import empty_user
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from stream.inference import InferenceRequest
from stream.pipeline import Pipeline
from stream.recommendations import RankedLists, RecommendationRequest
from stream.version_calls import InferenceCall, VersionCall

SCHEMA = FeatureSchema(FeatureSettings())


@dataclass
class Versions:
    """Answers when it is told to, by event_id and whether a shadow is meant."""

    told: dict[str, asyncio.Event] = field(default_factory=dict)

    def tell(self, name: str) -> asyncio.Event:
        return self.told.setdefault(name, asyncio.Event())

    async def execute(self, call: InferenceCall) -> RankedLists:
        event = call.requests[0].event
        assert event
        await self.tell(event.event_id).wait()
        return RankedLists([[] for _ in call.requests], "1", "stable")

    async def execute_shadow(self, call: VersionCall) -> RankedLists:
        await self.tell(f"shadow of {call.route}").wait()
        return RankedLists([[] for _ in call.times_ms], "2", "shadow")


class World:
    """A pipeline, what it has delivered and which batches are done."""

    def __init__(self) -> None:
        self.versions = Versions()
        self.delivered: list[str] = []
        self.shadowed: list[str] = []
        self.done_batches: list[str] = []
        self.pipeline = Pipeline(self.versions, self, self)  # type: ignore[arg-type]

    async def send_answer(self, answer: Recommendation, headers: Headers) -> None:
        self.delivered.append(answer.event_id)
        if answer.shadow:
            self.shadowed.append(answer.event_id)

    def mark_done(self, events: Sequence[str]) -> None:
        self.done_batches += events

    async def start(self, name: str, *calls: InferenceCall) -> None:
        await self.pipeline.start(calls, [name])  # type: ignore[list-item]

    async def answered(self, *names: str) -> None:
        for name in names:
            self.versions.tell(name).set()
        for _ in range(20):
            await asyncio.sleep(0)


def call(
    event_id: str,
    user_id: str,
    *,
    on_trial: bool = False,
    shadow: bool = False,
    arrived_ms: int | None = None,
) -> InferenceCall:
    event = Click(event_id=event_id, user_id=user_id, item_id="i", timestamp=1_700_000_000_000)
    request = RecommendationRequest(
        user_id, event.timestamp, empty_user(SCHEMA), event, arrived_ms=arrived_ms
    )
    return InferenceCall(
        [request],
        version_call(event_id, on_trial=on_trial),
        version_call(event_id, on_trial=True) if shadow else None,
    )


def version_call(event_id: str, *, on_trial: bool) -> VersionCall:
    """Of a call a pipeline only asks whether its version is on trial."""
    return VersionCall(event_id, InferenceRequest(1, {}, on_trial), [1_700_000_000_000], None)  # type: ignore[arg-type]


async def slow_canary(world: World) -> None:
    await world.start("b1", call("c1", "cara", on_trial=True), call("s1", "stan"))
    await world.answered("s1")
    await world.start("b2", call("c2", "carl", on_trial=True), call("s2", "stan"))
    await world.answered("s2")
    await world.answered("c2")
    assert world.delivered == ["s1", "s2", "c2"]
    assert world.done_batches == []
    await world.answered("c1")
    assert world.delivered[-1] == "c1"
    assert world.done_batches == ["b1", "b2"]


async def same_person(world: World) -> None:
    await world.start("b1", call("c1", "ann", on_trial=True))
    await world.start("b2", call("s2", "ann"))
    await world.answered("s2")
    assert world.delivered == []
    await world.answered("c1")
    assert world.delivered == ["c1", "s2"]
    assert world.done_batches == ["b1", "b2"]


async def stable_paces(world: World) -> None:
    await world.start("b1", call("s1", "ann"))
    second = asyncio.create_task(world.start("b2", call("s2", "bob")))
    await world.answered()
    assert not second.done()
    await world.answered("s1")
    assert second.done()
    await world.answered("s2")
    assert world.delivered == ["s1", "s2"]


async def slow_shadow(world: World) -> None:
    await world.start("b1", call("s1", "ann", shadow=True), call("s2", "bob"))
    await world.answered("s1", "s2")
    await world.start("b2", call("s3", "bob"))
    await world.answered("s3")
    assert world.delivered == ["s2", "s3"]
    await world.answered("shadow of s1")
    assert world.delivered[-1] == "s1"
    assert world.shadowed == ["s1"]
    assert world.done_batches == ["b1", "b2"]


async def canary_keeps_up(world: World) -> None:
    """Two batches behind it is waited for a little; one batch behind not at all."""
    await world.start("b1", call("c1", "ann", on_trial=True))
    await world.start("b2", call("c2", "bob", on_trial=True))
    third = asyncio.create_task(world.start("b3", call("s3", "stan")))
    await world.answered()
    assert not third.done()
    await world.answered("c1")
    assert third.done()
    fourth = asyncio.create_task(world.start("b4", call("s4", "stan")))
    await world.answered("s3")
    assert not fourth.done()
    await asyncio.wait_for(fourth, 1.0)
    await world.answered("c2", "s4")
    assert world.done_batches == ["b1", "b2", "b3", "b4"]


async def nobody_to_answer(world: World) -> None:
    await world.start("b1", call("c1", "ann", on_trial=True))
    await world.start("b2")
    assert world.done_batches == []
    await world.answered("c1")
    assert world.done_batches == ["b1", "b2"]


@pytest.mark.parametrize(
    "what_happens",
    [slow_canary, same_person, stable_paces, slow_shadow, canary_keeps_up, nobody_to_answer],
)
def test_who_waits_for_whom(what_happens: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(5):
            await what_happens(World())

    asyncio.run(run())


def test_how_long_an_event_waited_for_its_answer_is_told() -> None:
    """Of those that came by Kafka; a broker whose clock is ahead makes no negative time."""

    def told() -> tuple[float, float]:
        name = "headwater_event_to_answer_seconds"
        found = [REGISTRY.get_sample_value(f"{name}_{what}") for what in ("count", "sum")]
        return found[0] or 0.0, found[1] or 0.0

    async def run() -> None:
        world, now_ms = World(), int(time.time() * 1000)
        arrivals = {"a": now_ms - 90_000, "b": now_ms + 60_000, "c": None}
        calls = [call(name, name, arrived_ms=at) for name, at in arrivals.items()]
        await world.start("b1", *calls)
        await world.answered(*arrivals)
        assert world.done_batches == ["b1"]

    before = told()
    asyncio.run(run())
    after = told()
    assert after[0] - before[0] == 2
    assert after[1] - before[1] >= 90
