"""Page "Now": what was seen in the newest look, and the history of an hour and a day."""

import asyncio
import math
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec
from cachetools import TTLCache
from headwater_client import HeadwaterError
from headwater_client.admin import now as told
from headwater_client.topics import DEAD_LETTERS, RECOMMENDATIONS

from deploy.console import figures as made
from deploy.console.board import Look, NowBoard, find_targets, make_source
from deploy.console.history import SPANS
from deploy.console.parts import ConsoleOperations, ConsoleParts
from features.events import current_ms
from stream.api.parts import ApiCall
from stream.api.problems import RETRY_S, make_problem, refuse
from stream.trending import TrendingItems

TRENDING = 10
HOUR_MS = 3_600_000
_FIRST_S = 5.0
_TITLES_S = 60.0


class NowOperations(ConsoleOperations):
    """Tell what happens now, and what happened lately."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        targets = find_targets(parts.settings)
        self._board = NowBoard(parts.settings, make_source(parts.settings, targets), targets)
        self._looked = asyncio.Event()
        self._titles: TTLCache[str, str] = TTLCache(1000, _TITLES_S)
        self._answer: told.NowAnswer | None = None
        self._histories: dict[told.Span, tuple[int, told.HistoryAnswer]] = {}

    async def watch_now(self) -> None:
        """Look at everything every two seconds, for ever."""
        await self._board.run(self._note_look)

    def _note_look(self) -> None:
        self._answer = None
        if self._board.newest is not None:
            self._looked.set()

    async def tell_now(self, _: ApiCall) -> told.NowAnswer:
        """What happens now.

        Raises:
            RequestError: nothing has been looked at yet.
        """
        return await self.sample_now()

    async def sample_now(self) -> told.NowAnswer:
        """The same, for whoever looks: made once for all.

        Raises:
            RequestError: nothing has been looked at yet.
        """
        if self._board.history is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_S):
                    await self._looked.wait()
        if self._board.newest is None:
            raise refuse(
                "unavailable",
                "the console has not looked at the servers yet",
                "wait a moment",
                retry_after=str(RETRY_S),
            )
        if self._answer is None:
            trends = await self._tell_trends()
            self._answer = self._tell(self._board.newest, trends)
        return self._answer

    async def tell_history(self, call: ApiCall) -> told.HistoryAnswer:
        """The last hour, or the last day.

        Raises:
            RequestError: nothing has been looked at yet.
        """
        query: told.HistoryQuery = call.query
        if self._board.history is None:
            raise refuse("unavailable", "the history is being opened", "wait a moment")
        step, known = current_ms() // (1000 * SPANS[query.span].step_s), self._histories
        if query.span not in known or known[query.span][0] != step:
            read = self._board.history.read
            known[query.span] = (
                step,
                await asyncio.to_thread(lambda: made.make_history(query.span, read(query.span))),
            )
        return known[query.span][1]

    def _tell(self, look: Look, trends: told.TrendsNow) -> told.NowAnswer:
        figures = made.Figures(look)
        places = made.list_partitions(look)
        versions = self._tell_versions(figures)
        missing = made.find_missing(look, self._parts.settings)
        if not versions:
            missing["versions"] = make_problem(
                "not-found", "no version of the model takes traffic", "train one: headwater train"
            )
        if not trends.items:
            missing["trends"] = make_problem(
                "not-found", "nothing trends: no event is in the rows yet", "send events"
            )
        spans = {"minute": look.minute, "hour": look.hour, "day": look.day}
        answer = told.NowAnswer(
            time=look.time_ms,
            since=look.begin_ms,
            recent_s=look.recent_s,
            all_events=made.add_events(look, figures),
            events=made.list_events(look, figures),
            all_answers=told.Counted(**figures.count("answers")),
            answers=[
                told.AnswersNow(
                    variant=variant,
                    fallback=said == "True",
                    **figures.count("answers", said, variant),
                )
                for said, variant in figures.labels("answers")
            ],
            answers_in_log=made.count_log(look, RECOMMENDATIONS),
            fallbacks=told.Counted(**figures.count("answers", "True")),
            requests=made.list_requests(figures),
            dead_letters=[
                told.RefusalsNow(topic=topic, **figures.count("dead_letters", topic))
                for (topic,) in figures.labels("dead_letters")
            ],
            dead_letters_in_log=made.count_log(look, DEAD_LETTERS),
            latency={name: made.make_latency(slot.counts) for name, slot in spans.items()},
            absorption={
                name: made.make_latency(slot.counts, "row_seconds") for name, slot in spans.items()
            },
            knowledge=told.KnowledgeNow(
                age_ms=look.age_ms,
                lag=sum(each.lag for each in places) if places else None,
                trends_time=self._trending.reference_ms if trends.items else None,
            ),
            partitions=places,
            versions=versions,
            servers=self._board.servers,
            trends=trends,
            missing=missing,
        )
        return msgspec.structs.replace(answer, shape=made.find_shape(answer))

    def _tell_versions(self, figures: made.Figures) -> list[told.VersionNow]:
        """What takes traffic, as the newest rollout says, and what it answered."""
        routes = self._parts.routes
        all_answers = figures.count("answers")["hour"]
        found = []
        for each in routes.versions_to_keep:
            answers = sum(
                figures.count("answers", said, variant)["hour"]
                for said, variant in figures.labels("answers")
                if variant == each.variant
            )
            found.append(
                told.VersionNow(
                    variant=each.variant,
                    version=each.version,
                    share=each.share,
                    answers=answers,
                    answer_share=answers / all_answers if all_answers else None,
                    workers=figures.find_versions(each.variant),
                    problem=routes.problems.get(each.variant, ""),
                )
            )
        return found

    @property
    def _trending(self) -> TrendingItems:
        return self._parts.recommender.items.trending.items

    async def _tell_trends(self) -> told.TrendsNow:
        """The items that trend most, of whatever is on sale or not, as of now."""
        items = self._trending
        lives = [int(life) for life in items.half_lives]
        names = list(items.item_ids[:TRENDING])
        counts = items.counts[:TRENDING] * items.decay_factors([current_ms()])
        titles = await self._find_titles(names)
        return told.TrendsNow(
            half_lives_ms=lives,
            ranked_by_ms=lives[items.ranked_by],
            items=[
                told.TrendNow(
                    item_id=name,
                    title=titles.get(name, ""),
                    counts={str(life): float(c) for life, c in zip(lives, row, strict=True)},
                    per_hour={
                        str(life): steady_rate(float(c), life) * HOUR_MS
                        for life, c in zip(lives, row, strict=True)
                    },
                )
                for name, row in zip(names, counts, strict=True)
            ],
        )

    async def _find_titles(self, names: Iterable[str]) -> Mapping[str, str]:
        """The titles of items; those that the store does not tell in time are left out."""
        catalogue = self._parts.recommender.items.catalogue
        # Where the store is away, the page says so where servers are.
        with suppress(HeadwaterError, TimeoutError):
            async with asyncio.timeout(self._parts.deadline_s):
                for name in names:
                    if name not in self._titles:
                        item = await catalogue.find(name)
                        self._titles[name] = item.title or "" if item else ""
        return dict(self._titles)


def steady_rate(count: float, half_life_ms: float) -> float:
    """Events a millisecond that keep a decayed counter at this count.

    A counter fed at a constant rate r tends to r times the integral of 2^-(t / half-life), which is
    r half-life / ln 2.

    >>> round(steady_rate(100 / math.log(2), 1000.0), 12)
    0.1
    """
    return count * math.log(2) / half_life_ms
