"""Batches whose answers are under way: none waits longer for another than it must.

The next batch waits for what the stable version answers, because a batch is what arrived meanwhile.
A version on trial (a canary or its baseline) may lag one batch; if it lags more, it is waited for,
but not long: one that is as fast as the stable version catches up, and one that is not holds nobody
up. Shadows are never waited for. So several batches can be open at once. A user's answers keep
their order, and batches are done in theirs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

import msgspec
from faust.types import EventT
from headwater_client.events import Recommendation, Shadow, encode
from headwater_client.topics import RECOMMENDATIONS

from stream import metrics
from stream.delivery import Commits, RecommendationProducer
from stream.failures import critical_task, retry_while_unavailable
from stream.recommendations import make_recommendations, make_shadows
from stream.recommender import InferenceCall, Recommender, VersionCall

# How long a batch waits for a version on trial that lags behind.
_CATCH_UP_S = 0.05
# Where Kafka takes nothing, batches wait here and not in memory without end.
_MAX_OPEN_BATCHES = 64


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Measure the wall time of a stage."""
    with metrics.STAGE_SECONDS.labels(name).time():
        yield


@dataclass(eq=False, slots=True)
class _OpenCall:
    """A call that is not delivered yet.

    Attributes:
        answered: the answer is there, its shadow perhaps not.
        task: ends when the answer is delivered.
    """

    call: InferenceCall
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    user_ids: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.user_ids = {request.user_id for request in self.call.requests}


@dataclass(eq=False, slots=True)
class _OpenBatch:
    """Messages, and those of their calls that are not delivered yet."""

    events: Sequence[EventT[bytes]]
    calls: list[_OpenCall]


class Pipeline:
    """Executes the calls of batches, delivers the answers, and says which batches are done."""

    def __init__(
        self, recommender: Recommender, producer: RecommendationProducer, commits: Commits
    ) -> None:
        self._recommender = recommender
        self._producer = producer
        self._commits = commits
        self._open: deque[_OpenBatch] = deque()
        self._awaited: list[_OpenCall] = []

    async def start(self, calls: Sequence[InferenceCall], events: Sequence[EventT[bytes]]) -> None:
        """Begin to answer a batch, once the stable version has answered the one before."""
        for call in self._awaited:
            await call.answered.wait()
        await self._let_catch_up()
        while len(self._open) >= _MAX_OPEN_BATCHES:
            await _join(self._open[0].calls[:1])
        before = [call for batch in self._open for call in batch.calls]
        batch = _OpenBatch(events, [_OpenCall(call) for call in calls])
        self._open.append(batch)
        self._awaited = [call for call in batch.calls if not call.call.on_trial]
        for call in batch.calls:
            earlier = [other for other in before if not call.user_ids.isdisjoint(other.user_ids)]
            work = partial(self._answer, batch, call, earlier)
            call.task = asyncio.create_task(critical_task(work)())
        self._finish_batches()

    async def _let_catch_up(self) -> None:
        """Wait a little for a version on trial that is more than a batch behind."""
        earlier = list(self._open)[:-1]
        behind = [call for batch in earlier for call in batch.calls if not call.answered.is_set()]
        if behind:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CATCH_UP_S):
                    for call in behind:
                        await call.answered.wait()

    async def _answer(
        self, batch: _OpenBatch, open_call: _OpenCall, earlier: Sequence[_OpenCall]
    ) -> None:
        call = open_call.call
        shadows = asyncio.create_task(self._shadows(call.shadow)) if call.shadow else None
        answers = await self._recommendations(call)
        open_call.answered.set()
        if shadows:
            answers = _with_shadows(answers, await shadows)
        await _join(earlier)
        with stage("deliver"):
            for answer in answers:
                await self._producer.send(RECOMMENDATIONS, answer.user_id.encode(), encode(answer))
            metrics.count_recommendations(answers)
        batch.calls.remove(open_call)
        self._finish_batches()

    async def _recommendations(self, call: InferenceCall) -> list[Recommendation]:
        with stage("answer"):
            async for attempt in retry_while_unavailable():
                with attempt:
                    ranked = await self._recommender.execute(call)
            return make_recommendations(call.requests, ranked)

    async def _shadows(self, call: VersionCall) -> list[Shadow]:
        async for attempt in retry_while_unavailable():
            with attempt:
                ranked = await self._recommender.execute_shadow(call)
        return make_shadows(ranked)

    def _finish_batches(self) -> None:
        """Batches that are whole are done, in their order."""
        while self._open and not self._open[0].calls:
            self._commits.mark_done(self._open.popleft().events)


async def _join(calls: Sequence[_OpenCall]) -> None:
    for call in calls:
        if call.task:
            await call.task


def _with_shadows(
    answers: Sequence[Recommendation], shadows: Sequence[Shadow]
) -> list[Recommendation]:
    return [
        msgspec.structs.replace(answer, shadow=shadow)
        for answer, shadow in zip(answers, shadows, strict=True)
    ]
