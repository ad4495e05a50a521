"""All that made a list that was sent, made again from the log.

    list ── sequence ──▶ row, of the events up to there ─┐
         ── version ───▶ the version, if Triton has it ──┼──▶ scores, but for what trended
         ── revision ──▶ the placement's rules ──────────┘

What must be equal is what hangs on these alone: the row, and what the version makes of it. What
trended, what was for sale and what the catalogue said is nowhere in the log: it is as of now.
"""

import asyncio
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from headwater_client import HeadwaterError, RecommendedItem, SettingsError
from headwater_client.admin import people
from headwater_client.contract import PlacementRules
from headwater_client.events import Recommendation

from deploy.jobs import list_descriptions, past_rows, past_versions, person_log
from deploy.jobs.replay_rules import read_revisions
from deploy.settings import Settings
from features.rows import UserRow
from features.rules.conditions import Scope
from features.rules.errors import RuleError
from features.topics import hash64
from stream.api.parts import ApiParts
from stream.filtering import ItemFilter
from stream.list_rules import BOOSTS, RequestRules
from stream.ranking import POPULAR
from stream.recommendations import RankedLists, RecommendationRequest

# Scores are float32, summed in another order where fewer people are asked about at once.
TOLERANCE = 2e-4
_TRENDS = "trends"


@dataclass(frozen=True)
class PastQuestion:
    """A list that was sent, and what it is made again of.

    Attributes:
        log: all that the log has of its person.
        stored: the person's row as it is now.
        entries: what the catalogue says of the items of the log.
        counts: how often the items of the list were ever used.
        scope: what expressions get of the request, and of the person as they are now.
    """

    logged: person_log.LoggedRecommendation
    log: person_log.PersonLog
    stored: UserRow
    entries: past_rows.Entries
    counts: Mapping[str, list_descriptions.ItemCounts]
    scope: Scope

    @property
    def told(self) -> Recommendation:
        """The list."""
        return self.logged.told


class _PastRules(NamedTuple):
    """The rules of a list; why they are not known, where there were some."""

    rules: PlacementRules | None = None
    problem: str = ""
    wanted: ItemFilter | None = None
    bound: RequestRules | None = None


class _Answers(NamedTuple):
    """What a version answers again: the list's items, without and with what trends; a new list."""

    alone: RankedLists | None = None
    now: RankedLists | None = None
    new: RankedLists | None = None
    problem: str = ""


class ListReproducer:
    """Makes lists again.

    Args:
        parts: what the API answers with.
        settings: where the topic of placements is.
    """

    def __init__(
        self,
        parts: ApiParts,
        settings: Settings,
        versions: past_versions.PastVersions,
        names: list_descriptions.CatalogueNames,
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._versions = versions
        self._names = names

    async def reproduce(self, person: str, asked: PastQuestion) -> people.ReproductionAnswer:
        """The list, its row, its rules and its scores.

        Args:
            person: as the answer calls them.

        Raises:
            ServerError: Kafka or the store does not answer.
        """
        told = asked.told
        known = set(self._parts.sources.values())
        base = past_rows.find_base(asked.stored, known)
        part = await asyncio.to_thread(past_rows.find_known_part, asked.log, told, base)
        records = [record for record in asked.log.records if part.has(record)]
        row = past_rows.build_row(records, asked.entries, self._parts.schema)
        time_ms = max(told.event_time, row.reference_ms)
        rules = await self._find_rules(asked)
        answers = await self._ask(asked, row, time_ms, rules)
        items = [self._compare(place, asked, answers) for place in range(len(told.items))]
        notes = [*asked.log.missing, *filter(None, [part.problem])]
        if base:
            notes.append(
                "the row has events that the log has no more: of a topic that was made anew, or of "
                "a file that rows were filled from"
            )
        new = answers.new
        return people.ReproductionAnswer(
            person=person,
            sent=self._names.describe_sent(asked.logged),
            row=self._describe_row(row, time_ms),
            items=items,
            equalities=_find_equalities(told, items, notes, answers),
            rules=rules.rules,
            now=self._names.describe_asked(new, time_ms) if new else None,
            version_problem=answers.problem,
            rules_problem=rules.problem,
            notes=notes,
        )

    def _describe_row(self, row: UserRow, time_ms: int) -> people.PastRow:
        return people.PastRow(
            sequence=row.sequence,
            offsets=list_descriptions.describe_offsets(row, self._parts.sources),
            reference_time=row.reference_ms,
            counters=list_descriptions.describe_counters(row, self._parts.schema, time_ms),
            events=self._names.describe_history(row),
            seen=len(row.seen),
        )

    async def _find_rules(self, asked: PastQuestion) -> _PastRules:
        """The rules that made the list, by their revision."""
        told = asked.told
        if not told.placement:
            return _PastRules()
        if told.placement_revision is None:
            trial = told.trial
            of_trial = f" of {trial.rollout_id}" if trial else ""
            return _PastRules(problem=f"rules on trial{of_trial} made it: they have no revision")
        try:
            revisions = await asyncio.to_thread(
                read_revisions, self._settings.kafka, told.placement
            )
        except SettingsError as error:
            return _PastRules(problem=str(error))
        rules = revisions.get(told.placement_revision)
        if rules is None:
            newer = max(revisions)
            return _PastRules(
                problem=f"revision {told.placement_revision} was changed, and is compacted away: "
                f"the placement is at revision {newer}"
            )
        return self._bind(asked, rules)

    def _bind(self, asked: PastQuestion, rules: PlacementRules) -> _PastRules:
        told, items = asked.told, self._parts.items
        try:
            wanted = items.apply_filter(rules.filter, asked.scope) if rules.filter else None
            if told.asked is not None and told.asked.filter:
                own = items.apply_filter(told.asked.filter, asked.scope)
                wanted = wanted.join(own) if wanted else own
            bound = RequestRules(items, rules, asked.scope, wanted, told.recommendation_id)
        except RuleError as error:
            return _PastRules(rules, f"the rules cannot be used now: {error}")
        return _PastRules(rules, "", wanted, bound)

    async def _ask(
        self, asked: PastQuestion, row: UserRow, time_ms: int, rules: _PastRules
    ) -> _Answers:
        told = asked.told
        if told.fallback:
            why = told.failed or "no version was live"
            return _Answers(problem=f"no version made this list: {why}: it is what trended")
        names = [item.item_id for item in told.items]
        scored = RecommendationRequest(
            told.user_id, time_ms, row, limit=len(names), candidates=names, explained=True
        )
        listed = RecommendationRequest(
            told.user_id,
            time_ms,
            _leave_out(row, told),
            limit=(told.asked.limit if told.asked else None) or (len(names) + told.missing) or None,
            wanted=rules.wanted,
            explained=True,
            rules=rules.bound,
        )
        try:
            version = await self._versions.open(_read_number(told.model_version))
            alone = await past_versions.rank_items(version.alone, scored) if names else None
            now = await past_versions.rank_items(version.now, scored) if names else None
            return _Answers(alone, now, await past_versions.list_items(version.now, listed))
        except HeadwaterError as error:
            return _Answers(problem=str(error))

    def _compare(self, place: int, asked: PastQuestion, answers: _Answers) -> people.ReproducedItem:
        """One item of the list, as it was sent and as the version answers again."""
        item = asked.told.items[place]
        named = self._names.title(item.item_id)
        counts = asked.counts.get(item.item_id, {})
        base = people.ReproducedItem(
            item_id=item.item_id,
            title=named,
            score=item.score,
            reason=item.reason,
            has_trended=any(values[-1] for values in counts.values()),
        )
        alone = _find(answers.alone, item.item_id)
        now = _find(answers.now, item.item_id)
        if alone is None or now is None or item.reason == POPULAR:
            return base
        boosts = 0.0
        if answers.new is not None and (new := _find(answers.new, item.item_id)) is not None:
            boosts = new.parts.get(BOOSTS, 0.0)
        return people.ReproducedItem(
            item_id=item.item_id,
            title=named,
            score=item.score,
            reason=item.reason,
            has_trended=base.has_trended,
            model_score=alone.score,
            parts={name: part for name, part in alone.parts.items() if name != _TRENDS},
            trends_then=item.score - alone.score - boosts,
            trends_now=now.score - alone.score,
            boosts=boosts,
            reason_again=alone.reason,
        )


def _find(lists: RankedLists | None, item_id: str) -> RecommendedItem | None:
    if lists is None:
        return None
    return next((item for item in lists.items[0] if item.item_id == item_id), None)


def _leave_out(row: UserRow, told: Recommendation) -> UserRow:
    """The row with what the request left out taken for seen."""
    excluded = told.asked.exclude if told.asked else []
    if not excluded:
        return row
    seen = array("q", sorted({*row.seen, *map(hash64, excluded)}))
    return UserRow(
        row.counters, row.events, row.categories, seen, row.dedup_ids, row.offsets, row.merges
    )


def _read_number(version: str) -> int:
    return int(version) if version.isdecimal() else 0


def _find_equalities(
    told: Recommendation,
    items: Sequence[people.ReproducedItem],
    notes: Sequence[str],
    answers: _Answers,
) -> list[people.Equality]:
    """What has to be equal, whether it is, and what cannot be."""
    is_whole = not notes
    scored = [item for item in items if item.trends_then is not None]
    unused = [item for item in scored if not item.has_trended]
    caused = [item for item in scored if item.reason.kind == "history"]
    is_of_api = not told.topic
    order = None
    if answers.new is not None:
        order = [item.item_id for item in answers.new.items[0]] == [i.item_id for i in items]
    return [
        people.Equality(
            what="row",
            must_be=is_whole,
            is_equal=is_whole,
            why="it is made of the events up to the list's sequence, each applied as a worker "
            "applies it; counters decay from the event's own time, so they are as they were"
            if is_whole
            else "part of what the row knew is not in the log: see the notes",
        ),
        people.Equality(
            what="model scores",
            must_be=is_whole and not is_of_api,
            is_equal=all(_is_rounding(item) for item in unused) if unused else None,
            why="the same version, row and moment: equal to float32's rounding in items that were "
            "never used, to which trends add nothing; of others what is left is what trended. "
            "Categories are those of the catalogue now: where they were changed, counters by "
            "category, and so scores, are others. Of a list of the API the moment is known to some "
            "milliseconds",
        ),
        people.Equality(
            what="past events that explain",
            must_be=is_whole,
            is_equal=all(item.reason == item.reason_again for item in caused) if caused else None,
            why="the version names the past event; whether an item came by its trend is not "
            "compared",
        ),
        people.Equality(
            what="what trends added",
            must_be=False,
            why="how often all items were used up to that moment is not kept: it is what the score "
            "had besides the version's own",
        ),
        people.Equality(
            what="the list made again",
            must_be=False,
            is_equal=order,
            why="what trends, what is for sale and what attributes say is as of now",
        ),
    ]


def _is_rounding(item: people.ReproducedItem) -> bool:
    return abs(item.trends_then or 0.0) <= TOLERANCE * max(1.0, abs(item.score))
