"""Batches whose answers are under way: none waits longer for another than it must.

The next batch waits for what the stable version answers, because a batch is what arrived meanwhile.
A version on trial may be a batch behind; if it is further behind it is waited for, but not long:
one that is as fast as the stable one keeps up, and one that is not holds nobody up. Nobody waits
for a shadow. So several batches can be open at once.
A person's answers keep their order, and batches are done in theirs.
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
from stream.asking import Question
from stream.commits import Commits
from stream.failures import critical_task, retry_while_unavailable
from stream.producer import RecommendationProducer
from stream.recommender import Group, Recommender

# How long a batch waits for a version on trial that lags behind.
_PATIENCE_S = 0.05
# Where Kafka takes nothing, batches wait here and not in memory without end.
_MOST_OPEN = 64


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Measures the wall time of a stage."""
    with metrics.STAGE_SECONDS.labels(name).time():
        yield


@dataclass(eq=False, slots=True)
class _Part:
    """One group's answers: `answered`, but for a shadow, and delivered when `task` ends."""

    group: Group
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    people: set[str] = field(init=False)

    def __post_init__(self) -> None:
        self.people = {request.event.user_id for request in self.group.requests}


@dataclass(eq=False, slots=True)
class _Batch:
    """Events, and the parts of their answers that are not delivered yet."""

    events: Sequence[EventT[bytes]]
    parts: list[_Part]


class Pipeline:
    """Answers batches, delivers the answers, and says which batches are done."""

    def __init__(
        self, answerer: Recommender, delivery: RecommendationProducer, commits: Commits
    ) -> None:
        self._answerer = answerer
        self._delivery = delivery
        self._commits = commits
        self._open: deque[_Batch] = deque()
        self._relied_on: list[_Part] = []

    async def start(self, groups: Sequence[Group], events: Sequence[EventT[bytes]]) -> None:
        """Begin to answer a batch, once the stable version has answered the one before."""
        for part in self._relied_on:
            await part.answered.wait()
        await self._let_catch_up()
        while len(self._open) >= _MOST_OPEN:
            await _ended(self._open[0].parts[:1])
        before = [part for batch in self._open for part in batch.parts]
        batch = _Batch(events, [_Part(group) for group in groups])
        self._open.append(batch)
        self._relied_on = [part for part in batch.parts if not part.group.on_trial]
        for part in batch.parts:
            earlier = [each for each in before if not part.people.isdisjoint(each.people)]
            work = partial(self._answer, batch, part, earlier)
            part.task = asyncio.create_task(critical_task(work)())
        self._end_batches()

    async def _let_catch_up(self) -> None:
        """Wait a little for a version on trial that is more than a batch behind."""
        earlier = list(self._open)[:-1]
        behind = [one for each in earlier for one in each.parts if not one.answered.is_set()]
        if behind:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    for part in behind:
                        await part.answered.wait()

    async def _answer(self, batch: _Batch, part: _Part, earlier: Sequence[_Part]) -> None:
        group = part.group
        shadows = asyncio.create_task(self._shadows(group.shadow)) if group.shadow else None
        answers = await self._answers(group)
        part.answered.set()
        if shadows:
            answers = _with_shadows(answers, await shadows)
        await _ended(earlier)
        with stage("deliver"):
            for answer in answers:
                await self._delivery.send(RECOMMENDATIONS, answer.user_id.encode(), encode(answer))
            metrics.count_recommendations(answers)
        batch.parts.remove(part)
        self._end_batches()

    async def _answers(self, group: Group) -> list[Recommendation]:
        with stage("answer"):
            async for attempt in retry_while_unavailable():
                with attempt:
                    answers = await self._answerer.answer(group)
        return answers

    async def _shadows(self, question: Question) -> list[Shadow]:
        async for attempt in retry_while_unavailable():
            with attempt:
                shadows = await self._answerer.shadows(question)
        return shadows

    def _end_batches(self) -> None:
        """Batches that are whole are done, in their order."""
        while self._open and not self._open[0].parts:
            self._commits.mark_done(self._open.popleft().events)


async def _ended(parts: Sequence[_Part]) -> None:
    for part in parts:
        if part.task:
            await part.task


def _with_shadows(
    answers: Sequence[Recommendation], shadows: Sequence[Shadow]
) -> list[Recommendation]:
    return [
        msgspec.structs.replace(answer, shadow=shadow)
        for answer, shadow in zip(answers, shadows, strict=True)
    ]
