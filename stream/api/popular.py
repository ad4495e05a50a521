"""What is popular now: overall, in a category, of what a filter allows, with a segment's people."""

import asyncio

from headwater_client import EventError, HeadwaterError, RecommendedItem, contract

from features.events import current_ms
from features.topics import hash64
from stream.api.filters import read_filter
from stream.api.parts import ApiCall, Operations
from stream.api.problems import RETRY_S, refuse
from stream.ranking import popular_items
from stream.recommendations import count_places
from stream.segment_rates import SegmentTrends

_CHUNK = 200


class PopularOperations(Operations):
    """Tell what is popular."""

    async def list_popular(self, call: ApiCall) -> contract.PopularAnswer:
        """What is popular now; of items that are not available none.

        Raises:
            EventError: there is no such segment.
            RequestError: the filter cannot be used, or the log has not been read yet.
        """
        query: contract.PopularQuery = call.query
        wanted = read_filter(self._parts.items, query.filter, {})
        views, now_ms = self._parts.recommender.items, current_ms()
        segment = None if query.segment is None else await self._find_rates(query.segment)
        trending = views.trending.items if segment is None else segment.items
        limit = count_places(query.limit, self._parts.top_k)
        category = None if query.category is None else hash64(query.category)
        # Of all parts together: a store that hangs is waited for once.
        until_s = asyncio.get_running_loop().time() + self._parts.deadline_s
        found: list[RecommendedItem] = []
        for start in range(0, len(trending.item_ids), _CHUNK):
            chunk = popular_items(trending, now_ms, _CHUNK, start)
            names = [item.item_id for item in chunk]
            allowed = wanted.choose(names) if wanted else set(names)
            try:
                async with asyncio.timeout_at(until_s):
                    entries = await views.catalogue.get(names)
            except (HeadwaterError, TimeoutError):
                entries = views.catalogue.recall(names)
            found += [
                item
                for item in chunk
                if item.item_id in allowed
                and views.may_recommend(entries[item.item_id])
                and (category is None or category in entries[item.item_id].category_hashes)
            ]
            if len(found) >= limit:
                break
        return contract.PopularAnswer(
            items=found[:limit],
            produced_time=now_ms,
            segment=query.segment or "",
            people=None if segment is None else segment.people,
            counted_since=None if segment is None else segment.since_ms,
        )

    async def _find_rates(self, name: str) -> SegmentTrends:
        """What is popular in a segment.

        Raises:
            EventError: there is none of this name, or nothing is kept of people.
            RequestError: the log has not been read yet.
        """
        rates, known = self._parts.segment_rates, self._parts.placements.segments
        if not rates.is_on:
            raise EventError("segment", name, "nothing is kept for it: set api.segment_events")
        if name not in known:
            there = ", ".join(sorted(known)) or "none"
            raise EventError("segment", name, f"there are {there}: headwater segments put {name}")
        try:
            async with asyncio.timeout(self._parts.deadline_s):
                return await rates.find(known[name].segment.filter)
        except TimeoutError as error:
            reading = "the events that segments are counted from are being read"
            wait = str(RETRY_S)
            raise refuse("unavailable", reading, "ask again", retry_after=wait) from error
