"""What goes with an item or a cart: what is taken together first, then what is like it."""

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import NamedTuple

from headwater_client import HeadwaterError, Reason, RecommendedItem, contract
from headwater_client.contract import KnownBy, TogetherItem

from features.schema import FIRST_ITEM
from stream.api.answers import Found, Question
from stream.api.asking import ListOperations, make_looks, make_view, wait_for_both
from stream.api.filters import ListWish
from stream.api.intake import served_message
from stream.api.parts import ApiCall
from stream.ranking import is_seen
from stream.recommendations import count_places
from stream.routing import Route

_CHUNK = 200


class _Counted(NamedTuple):
    """What is taken together with what was asked for, best first; or why nothing is known."""

    items: list[RecommendedItem]
    problem: str = ""


class TogetherOperations(ListOperations):
    """Answer with lists of items, and with what goes with a cart."""

    async def find_together(self, call: ApiCall) -> contract.TogetherAnswer:
        """What people take together with some items; what is like them fills the list.

        Raises:
            EventError: an event breaks the contract.
            RequestError: the key may not send events.
        """
        query: contract.TogetherQuery = call.body
        wish, asked = await self._read_wish(query), list(dict.fromkeys(query.items))
        events, recording = self._writes.take_events(call, query)
        view = make_view(query.person, [*events, *make_looks(asked)], [*query.exclude, *asked])
        question = Question(view, wish.limit, wanted=wish.wanted)
        assignment = self._parts.routes.assign(view.user_id)
        found, recorded = await wait_for_both(self._parts.answerer.answer(question), recording)
        counted = _Counted([], "there is no version of the model")
        if assignment is not None:
            counted = await self._count(assignment.shown, asked, wish, found)
            if counted.items and found.lists.fallback:
                version = str(assignment.shown.version.version)
                found = found._replace(lists=replace(found.lists, model_version=version))
        known = {item.item_id for item in counted.items}
        fill = (item for item in found.items if item.item_id not in known)
        joined = [*counted.items, *fill][: count_places(wish.limit, self._parts.top_k)]
        found = found._replace(items=joined)
        answer, served = await self._list_answer(found, wish, query.person, recorded)
        if served is not None:
            self._parts.publisher.send(served_message(served))
        shared = {name: getattr(answer, name) for name in contract.ListAnswer.__struct_fields__}
        return contract.TogetherAnswer(
            **shared,
            items=[_describe(item, known, asked) for item in answer.items],
            missing=answer.missing,
            placement=answer.placement,
            placement_revision=answer.placement_revision,
            not_counted=counted.problem,
        )

    async def _count(
        self, route: Route, asked: Sequence[str], wish: ListWish, found: Found
    ) -> _Counted:
        """What is taken together with some items, of what may be in this list."""
        kept = await self._parts.together.find(route)
        if kept.table is None:
            return _Counted([], kept.problem)
        names, indices = route.vocabulary.item_ids, route.vocabulary.indices_of(asked)
        places = [at for at, index in enumerate(indices.tolist()) if index >= FIRST_ITEM]
        companions = kept.table.find(indices[places])
        best = zip(
            companions.items.tolist(),
            companions.scores.tolist(),
            companions.causes.tolist(),
            strict=True,
        )
        scored = [
            RecommendedItem(names[item], score, Reason("history", asked[places[cause]]))
            for item, score, cause in best
            if not is_seen(found.row, names[item])
        ]
        limit, items = count_places(wish.limit, self._parts.top_k), list[RecommendedItem]()
        # Of all parts together: a store that hangs is waited for once.
        until_s = asyncio.get_running_loop().time() + self._parts.deadline_s
        for start in range(0, len(scored), _CHUNK):
            chunk = scored[start : start + _CHUNK]
            allowed = await self._choose([item.item_id for item in chunk], wish, until_s)
            items += [item for item in chunk if item.item_id in allowed]
            if len(items) >= limit:
                break
        return _Counted(items[:limit])

    async def _choose(
        self, names: Sequence[str], wish: ListWish, until_s: float
    ) -> Collection[str]:
        """Those of some items that are on sale, and that the filter allows.

        Args:
            until_s: how long the store is waited for, by the loop's clock.
        """
        allowed = wish.wanted.choose(names) if wish.wanted else set(names)
        views = self._parts.recommender.items
        try:
            async with asyncio.timeout_at(until_s):
                available = await views.check(allowed)
        except (HeadwaterError, TimeoutError):
            available = views.recall(allowed)
        return {name for name, is_on_sale in available.items() if is_on_sale}


def _describe(
    item: RecommendedItem, counted: Collection[str], asked: Collection[str]
) -> TogetherItem:
    """An item of the list, with how it is known that it goes with what was asked for."""
    cause = item.reason.item_id
    known_by = KnownBy.SIMILAR if item.reason.kind == "history" else KnownBy.POPULAR
    if item.item_id in counted:
        known_by = KnownBy.TOGETHER
    goes_with = cause if cause in asked else None
    return TogetherItem(item.item_id, item.score, known_by, goes_with)
