"""Answers who asks: requests that arrive together are one read of the store and one inference call.

A batch begins at once where none is under way: a quiet service answers without a wait. Else a
request waits until the one under way is done, or the next is full. Only one that takes longer than
the longest wait gets another beside it: batches beside each other are smaller, and each takes its
time from the others.

    requests   a   b c     d      e
    batches    |-- a --|
                       |- b c d -|
                                 |- e -|

Who has waited for the deadline, or finds the store away, gets what trends, out of memory.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, NamedTuple, TypeVar

import structlog
from headwater_client import HeadwaterError, RecommendedItem, ServerError
from prometheus_client import Counter, Histogram

from features.events import current_ms
from features.metrics import LogThrottle
from features.rows import UserRow
from stream.filtering import ItemFilter
from stream.inference import REST_S, CircuitBreaker
from stream.list_rules import RequestRules
from stream.recommendations import RankedLists, RecommendationRequest
from stream.recommender import Recommender
from stream.row_updates import RowReader, RowView
from stream.version_calls import InferenceCall

MAX_WAITING = 4096
MAX_OPEN = 8
BATCH = Histogram(
    "headwater_api_batch_requests",
    "Requests that one read and one inference call answer",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
LATE = Counter(
    "headwater_api_late_answers_total",
    "Requests that were answered with what trends, out of memory",
    ["reason"],
)
log = structlog.get_logger()
Execute = Callable[[InferenceCall], Awaitable[RankedLists]]
QuestionT = TypeVar("QuestionT")
AnswerT = TypeVar("AnswerT")


class OverloadedError(ServerError):
    """So many requests wait that one more would be answered too late."""


@dataclass(eq=False, slots=True)
class _Waiting(Generic[QuestionT, AnswerT]):
    question: QuestionT
    answer: asyncio.Future[AnswerT]

    def settle(self, answer: AnswerT | None, error: Exception | None = None) -> None:
        """Answer, unless who asked has gone."""
        if self.answer.done():
            return
        if error is not None:
            self.answer.set_exception(error)
        elif answer is not None:
            self.answer.set_result(answer)


class Batching(NamedTuple):
    """How requests are joined.

    Attributes:
        size: requests of a batch, at most.
        longest_wait_s: how long a request may wait for others while a batch is under way.
    """

    size: int
    longest_wait_s: float


class RequestBatcher(Generic[QuestionT, AnswerT]):
    """Joins requests that arrive together.

    Args:
        answer: answers a batch; it settles each of them, or raises for all that are left.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[_Waiting[QuestionT, AnswerT]]], Awaitable[None]],
        batching: Batching,
    ) -> None:
        self._answer = answer
        self._size, self._longest_wait_s = batching
        self._waiting: deque[_Waiting[QuestionT, AnswerT]] = deque()
        self._open: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None

    async def ask(self, question: QuestionT) -> AnswerT:
        """The answer to one request.

        Raises:
            OverloadedError: too many wait.
            Exception: what answering the batch has raised.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise OverloadedError(f"{MAX_WAITING} requests wait: run more of this service")
        loop = asyncio.get_running_loop()
        waiting: _Waiting[QuestionT, AnswerT] = _Waiting(question, loop.create_future())
        self._waiting.append(waiting)
        if len(self._waiting) >= self._size:
            self._begin()
        elif not self._open:
            # After the requests that have arrived at the same moment.
            self._plan(0.0)
        elif self._timer is None:
            self._plan(self._longest_wait_s)
        return await waiting.answer

    def _plan(self, delay_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._begin)

    def _begin(self) -> None:
        """Begin a batch of those who wait, if there may be one more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch: list[_Waiting[QuestionT, AnswerT]] = []
        while self._waiting and len(batch) < self._size and len(self._open) < MAX_OPEN:
            # Who has gone meanwhile is not answered.
            if not (waiting := self._waiting.popleft()).answer.done():
                batch.append(waiting)
        if batch:
            task = asyncio.create_task(self._run(batch))
            self._open.add(task)
            task.add_done_callback(self._end)
        if self._waiting and self._timer is None and len(self._open) < MAX_OPEN:
            self._plan(self._longest_wait_s)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        if self._waiting:
            self._begin()

    async def _run(self, batch: Sequence[_Waiting[QuestionT, AnswerT]]) -> None:
        BATCH.observe(len(batch))
        try:
            await self._answer(batch)
        except (HeadwaterError, TimeoutError) as error:
            for waiting in batch:
                waiting.settle(None, error)
        except Exception as error:  # noqa: BLE001  (handed on, to who asked)
            if len(batch) == 1:
                batch[0].settle(None, error)
                return
            # A fault that one question has brought: nobody else's answer may fail with it.
            for waiting in batch:
                await self._run([waiting])


class Question(NamedTuple):
    """A list that is asked for.

    Attributes:
        view: of whom, and what the store may not know yet.
        limit: items of the list, at most; None: `worker.top_k`.
        candidates: of who wants these items in order, and no others.
        wanted: what may be in the list; None: all.
        explained: whether each item says what its score is the sum of.
        rules: which of that it has, and where.
    """

    view: RowView
    limit: int | None = None
    candidates: Sequence[str] = ()
    wanted: ItemFilter | None = None
    explained: bool = False
    rules: RequestRules | None = None


class Found(NamedTuple):
    """A list that was found, and the row that it was made from.

    Attributes:
        lists: of the version that answered, or of what trends; `items` are of this request.
    """

    row: UserRow
    lists: RankedLists
    items: list[RecommendedItem]

    @property
    def event_age_ms(self) -> int | None:
        """How old the newest event is that the answer knows; None where it knows none."""
        return max(0, current_ms() - self.row.reference_ms) if self.row.events else None


class Answerer:
    """Answers requests from the rows as they are now.

    Args:
        rows: reads the rows.
        recommender: the serving core.
        batching: how requests are joined.
        deadline_s: when who waits gets what trends, out of memory.
    """

    def __init__(
        self,
        rows: RowReader,
        recommender: Recommender,
        batching: Batching,
        deadline_s: float,
    ) -> None:
        self._rows = rows
        self._recommender = recommender
        self._deadline_s = deadline_s
        self._told = LogThrottle()
        self._store_breaker = CircuitBreaker()

        def make_batcher(execute: Execute) -> RequestBatcher[Question, Found]:
            return RequestBatcher(partial(self._answer, execute), batching)

        self._choosing = make_batcher(recommender.execute)
        self._ranking = make_batcher(recommender.rank_candidates)

    async def answer(self, question: Question) -> Found:
        """A list for a person, in time whatever is away.

        Raises:
            OverloadedError: too many requests wait.
        """
        if self._store_breaker.is_open:
            return self._recall(question, "away", "the store is not asked, it failed a moment ago")
        try:
            async with asyncio.timeout(self._deadline_s):
                batcher = self._ranking if question.candidates else self._choosing
                return await batcher.ask(question)
        except OverloadedError:
            raise
        except TimeoutError:
            return self._recall(question, "late", f"no answer in {1000 * self._deadline_s:.0f} ms")
        except HeadwaterError as error:
            self._tell(error)
            return self._recall(question, "away", "the store does not answer")

    def _recall(self, question: Question, reason: str, failed: str) -> Found:
        LATE.labels(reason).inc()
        row = self._rows.recall(question.view)
        lists = self._recommender.recall(_request(question, row), failed)
        return Found(row, lists, lists.items[0])

    def _tell(self, error: Exception) -> None:
        if requests := self._told.count():
            log.warning("answered_without_rows", error=str(error), requests=requests)

    async def _answer(self, execute: Execute, batch: Sequence[_Waiting[Question, Found]]) -> None:
        rows = await self._read_rows([waiting.question.view for waiting in batch])
        requests = [_request(w.question, row) for w, row in zip(batch, rows, strict=True)]
        # Two requests may be equal: of one person, at one moment.
        asked = {id(request): waiting for request, waiting in zip(requests, batch, strict=True)}
        async with asyncio.TaskGroup() as answering:
            for call in self._recommender.prepare(requests):
                waiting = [asked[id(request)] for request in call.requests]
                answering.create_task(_execute(execute, call, waiting))

    async def _read_rows(self, views: Sequence[RowView]) -> list[UserRow]:
        """The rows; a store that fails is left alone for a moment, for its clients wait long."""
        try:
            async with asyncio.timeout(self._deadline_s / 2):
                rows = await self._rows.read(views)
        except (HeadwaterError, TimeoutError) as error:
            self._store_breaker.trip(REST_S)
            raise ServerError(f"rows cannot be read: {error or 'no answer in time'}") from error
        self._store_breaker.reset()
        return rows


async def _execute(
    execute: Execute, call: InferenceCall, batch: Sequence[_Waiting[Question, Found]]
) -> None:
    """Answer those of a batch whose version is the same; a failure is theirs alone."""
    try:
        lists = await execute(call)
    except Exception as error:  # noqa: BLE001  (handed on, to each who asked)
        for waiting in batch:
            waiting.settle(None, error)
        return
    for waiting, request, items in zip(batch, call.requests, lists.items, strict=True):
        waiting.settle(Found(request.row, lists, items))


def _request(question: Question, row: UserRow) -> RecommendationRequest:
    """What the core is asked: as of now, or of the row's newest event, where its clock is ahead."""
    time_ms = max(current_ms(), row.reference_ms)
    return RecommendationRequest(
        question.view.user_id,
        time_ms,
        row,
        limit=question.limit,
        candidates=tuple(dict.fromkeys(question.candidates)),
        wanted=question.wanted,
        explained=question.explained,
        rules=question.rules,
    )
