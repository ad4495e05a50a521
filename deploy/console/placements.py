"""Placements: their rules, what a change of them would do, and changes themselves."""

import asyncio
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from confluent_kafka import TopicPartition
from headwater_client import EVENT_TYPES, EventError, HeadwaterError, contract, decode
from headwater_client.admin import placements as admin
from headwater_client.events import PersonAttributes, Recommendation, RecommendedItem
from headwater_client.topics import PEOPLE, PLACEMENTS, SERVED
from msgspec import structs

from deploy.console.audit import hide
from deploy.console.parts import ConsoleOperations, ConsoleParts
from deploy.console.rules_editor import DraftReader, draft_of, list_words
from deploy.jobs.replay_rules import Change, RulesReplay, replay_rules
from deploy.rollout.history import share_of
from deploy.rollout.topic import read_trials
from features import signing
from features.inputs import MODEL_NAME
from features.kafka import partition_bounds, read_places, read_to_end, topic_consumer
from features.placements import PlacementTable
from features.rules.compiler import PERSON, SEGMENT
from features.rules.conditions import Scope
from features.rules.filters import compile_filter
from features.rules.segments import SegmentValues
from stream.api import filters
from stream.api.asking import make_view
from stream.api.filters import ListWish, read_wish
from stream.api.parts import ApiCall
from stream.api.placements import PlacementOperations
from stream.api.problems import RequestError, refuse
from stream.recommendations import is_fallback
from stream.trials import PlacementTrials
from trainer.policies.off_policy import Estimate, PolicyComparison

# Newest messages of each partition that are looked through for names and people.
_SAMPLED = 200
_SEED = "preview"
_ACTIONS = 50
_OF_PLACEMENTS = ("placement", "trial", "draft")
_ESTIMATORS = {"ips": "IPS", "snips": "SNIPS", "dr": "doubly robust"}


class PlacementAreaOperations(ConsoleOperations, PlacementOperations):
    """Look at placements, see what a change would do, and change them."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        self._replaying = asyncio.Lock()

    @property
    def _drafts(self) -> DraftReader:
        return DraftReader(self._parts.items.table, self._parts.placements)

    async def list_placement_figures(self, _: ApiCall) -> admin.PlacementsOverview:
        """The placements, by name, and what is tried out of them."""
        table, trials, missing = self._parts.placements, {}, []
        try:
            kafka = self._parts.settings.kafka
            trials = await asyncio.to_thread(read_trials, kafka, MODEL_NAME)
        except HeadwaterError as error:
            missing.append(f"what is tried out: {error}")
        figures = [
            admin.PlacementFigures(
                name=name,
                revision=each.revision,
                rules=each.placement,
                trial=trials[name].phase if name in trials else "",
                trial_share=share_of(trials[name]) if name in trials else 0.0,
            )
            for name, each in sorted(table.known.items())
        ]
        segments = [table.segments[name] for name in sorted(table.segments)]
        return admin.PlacementsOverview(placements=figures, segments=segments, missing=missing)

    async def describe_placement(self, call: ApiCall) -> admin.PlacementDetails:
        """A placement, its revisions and its trials; of a new name what an editor begins with.

        Raises:
            EventError: no placement can be called so.
            RequestError: there is no such revision.
        """
        name, query = call.path["name"], call.query
        self._check_placement(name, contract.PlacementRules())
        missing: list[str] = []
        found = await asyncio.gather(
            self._read(missing, "its revisions", self._read_revisions, name),
            self._read(missing, "the audit", self._find_actions, name),
            self._read_trials(missing, name),
        )
        revisions, entries, trials = found[0] or [], found[1] or [], found[2]
        if not self._parts.may_read_people(call.key):
            entries = [hide(entry) for entry in entries]
        known = self._parts.placements.known.get(name)
        rules = known.placement if known else contract.PlacementRules()
        if query is not None and query.revision is not None:
            past = next((each for each in revisions if each.revision == query.revision), None)
            if past is None or past.rules is None:
                there = ", ".join(str(each.revision) for each in revisions if each.rules) or "none"
                raise refuse(
                    "not-found",
                    f"{name} has no rules of revision {query.revision} any more",
                    f"there are {there}",
                )
            rules = past.rules
        return admin.PlacementDetails(
            name=name,
            draft=draft_of(rules),
            revisions=revisions,
            trials=trials,
            actions=entries,
            missing=missing,
            rules=known.placement if known else None,
            revision=known.revision if known else None,
        )

    async def _read(self, missing: list[str], what: str, read: Any, name: str) -> Any:
        """What a reader finds; where a server is away, that is said."""
        try:
            return await asyncio.to_thread(read, name)
        except HeadwaterError as error:
            missing.append(f"{what}: {error}")
            return None

    async def _read_trials(self, missing: list[str], name: str) -> contract.TrialsAnswer:
        try:
            return await self._parts.trial_desk.read(name)
        except HeadwaterError as error:
            missing.append(f"its trials: {error}")
            return contract.TrialsAnswer(placement=name, trials=[])

    def _read_revisions(self, name: str) -> list[admin.RevisionFigures]:
        """The revisions of a placement, newest first, also those that count for nobody."""
        kafka, found = self._parts.settings.kafka, list[admin.RevisionFigures]()
        before = contract.PlacementRules()
        current = self._parts.placements.newest(name)
        with closing(topic_consumer(kafka, PLACEMENTS)) as consumer:
            for message in read_to_end(consumer, PLACEMENTS):
                if message.key() != name.encode():
                    continue
                revision, raw = message.offset() or 0, message.value()
                ignored = "" if signing.is_trusted(kafka, message) else "is not signed"
                rules = None
                try:
                    rules = None if raw is None else decode(contract.PlacementRules, raw)
                except EventError as error:
                    ignored = ignored or f"cannot be used: {error}"
                changed = _find_changed(before, rules) if rules else []
                before = before if ignored else rules or contract.PlacementRules()
                found.append(
                    admin.RevisionFigures(
                        revision=revision,
                        time=message.timestamp()[1],
                        rules=rules,
                        changed=changed,
                        is_current=revision == current,
                        ignored=ignored,
                    )
                )
        return found[::-1]

    def _find_actions(self, name: str) -> list[Any]:
        """What was done with a placement at the console, newest first."""
        target = f"name={name!r}"
        return [
            entry
            for entry in self._parts.audit.read().newest_first
            if entry.target.split(", ")[0] == target
            and any(word in entry.operation for word in _OF_PLACEMENTS)
        ][:_ACTIONS]

    async def list_editor_words(self, _: ApiCall) -> admin.VocabularyAnswer:
        """What filters and rules can ask for here."""
        missing: list[str] = []
        heard = await self._read(missing, "names of people and requests", self._hear_names, "")
        words = list(list_words(self._parts.items.table, self._parts.placements, heard or {}))
        if not len(self._parts.items.table):
            missing.append("the catalogue is empty: send items, and a version has to know them")
        return admin.VocabularyAnswer(words=words, missing=missing)

    def _hear_names(self, _: str) -> dict[admin.WordKind, set[str]]:
        """What apps have said of people of late, and what requests have brought."""
        people, context = set[str](), set[str]()
        for message in self._sample([PEOPLE, SERVED]):
            try:
                if message.topic() == PEOPLE and message.value() is not None:
                    people |= decode(PersonAttributes, message.value()).attributes.keys()
                elif message.topic() == SERVED:
                    asked = decode(Recommendation, message.value()).asked
                    context |= asked.context.keys() if asked else set()
            except EventError:
                # As everywhere: it counts for nobody.
                continue
        return {admin.WordKind.PERSON: people, admin.WordKind.CONTEXT: context}

    def _sample(self, topics: Sequence[str]) -> list[Any]:
        """The newest messages of some topics."""
        kafka = self._parts.settings.kafka
        numbers = range(kafka.partitions)
        bounds = partition_bounds(kafka, [(name, number) for name in topics for number in numbers])
        places = [
            TopicPartition(*place, max(first, end - _SAMPLED))
            for place, (first, end) in bounds.items()
            if end > first
        ]
        with closing(topic_consumer(kafka, PLACEMENTS)) as consumer:
            return list(read_places(consumer, places))

    async def check_draft(self, call: ApiCall) -> admin.DraftAnswer:
        """What is wrong with a draft; else what of the catalogue its filter allows.

        Raises:
            EventError: no placement can be called so.
        """
        rules, faults = self._drafts.read(call.path["name"], call.body)
        if rules is None:
            return admin.DraftAnswer(faults=faults, items=len(self._parts.items.table))
        items, allowed = self._parts.items, None
        found = compile_filter(rules.filter or "true")
        if all(mention.root == "item" for mention in found.mentions):
            allowed = int(np.count_nonzero(items.find_mask(found, {}).allowed))
        return admin.DraftAnswer(faults=[], rules=rules, items=len(items.table), allowed=allowed)

    async def preview_draft(self, call: ApiCall) -> admin.PreviewAnswer:
        """Lists by a placement's own rules and by a draft, side by side; nothing is recorded.

        Raises:
            EventError: no placement can be called so.
            RequestError: a person's name is masked, and was not shown; or the lists would tell what
                is known of people who are masked.
        """
        name, query = call.path["name"], call.body
        rules, faults = self._drafts.read(name, query)
        known = self._parts.placements.known.get(name)
        revision = known.revision if known else None
        if rules is None:
            return admin.PreviewAnswer(lists=[], faults=faults, missing=[], revision=revision)
        after = PlacementTable()
        after.segments = self._parts.placements.segments
        after.known = {name: contract.PlacementAnswer(name=name, revision=0, placement=rules)}
        self._check_may_preview(call, name, after)
        missing: list[str] = []
        people = [self._parts.unmask(each, call.key) for each in query.people]
        if not people:
            find = partial(self._find_people, query.count)
            people = await self._read(missing, "people", find, name) or []
            if not people and not missing:
                missing.append("nobody has done anything of late: name people")
        lists = [await self._preview(person, query, (name, after)) for person in people]
        shown = [
            structs.replace(each, person=self._parts.mask(each.person, call.key)) for each in lists
        ]
        return admin.PreviewAnswer(lists=shown, faults=[], missing=missing, revision=revision)

    def _check_may_preview(self, call: ApiCall, name: str, after: PlacementTable) -> None:
        asked = contract.RecommendationQuery(person="anyone", placement=name)
        asks_for_person = any(
            filters.asks_for_person(table, PlacementTrials(), asked)
            for table in (self._parts.placements, after)
        )
        self._parts.check_may_ask(call.key, asks_for_person=asks_for_person)

    def _find_people(self, count: int, _: str) -> list[str]:
        """Those who have done something last."""
        taking = [spec.topic for spec in EVENT_TYPES.values() if spec.has_counters]
        newest = sorted(self._sample(taking), key=lambda each: each.timestamp()[1], reverse=True)
        named = ((each.key() or b"").decode(errors="replace") for each in newest)
        return list(dict.fromkeys(name for name in named if name))[:count]

    async def _preview(
        self, person: str, query: admin.PreviewQuery, draft: tuple[str, PlacementTable]
    ) -> admin.PreviewLists:
        name, after = draft
        before = self._parts.placements
        placed = name if name in before.known else None
        attributes = dict(await self._parts.read_attributes(person))
        scope: Scope = {"context": query.context, PERSON: attributes}
        segments = {each: known.segment.filter for each, known in before.segments.items()}
        scope = {**scope, SEGMENT: SegmentValues(segments, scope)}
        lists, fallback, fault = [], False, ""
        for table, placement in ((before, placed), (after, name)):
            asked = contract.RecommendationQuery(
                person=person, placement=placement, context=query.context
            )
            items: list[RecommendedItem] = []
            try:
                wish = read_wish(self._parts.items, table, PlacementTrials(), asked, scope)
                items, is_fallback = await self._make_list(person, wish)
                fallback |= is_fallback
            except RequestError as error:
                fault = f"{'after' if table is after else 'before'}: {error}"
            lists.append(items)
        return admin.PreviewLists(
            person=person,
            before=self._describe(*lists),
            after=self._describe(*lists[::-1]),
            fault=fault,
            fallback=fallback,
        )

    async def _make_list(self, person: str, wish: ListWish) -> tuple[list[RecommendedItem], bool]:
        """A list, and whether no version answered; what is left to chance falls alike each time."""
        if wish.bound is not None:
            wish = wish._replace(bound=replace(wish.bound, seed=_SEED))
        found = await self._parts.answerer.answer(wish.ask(make_view(person, (), ())))
        fallback = is_fallback(found.lists, found.items)
        return ([] if fallback and wish.is_empty_without_version else found.items), fallback

    def _describe(
        self, items: Sequence[RecommendedItem], others: Sequence[RecommendedItem]
    ) -> list[admin.PreviewItem]:
        places = {item.item_id: place for place, item in enumerate(others, 1)}
        table = self._parts.items.table
        titles = table.find_column("title")
        described = []
        for item in items:
            row = table.row_of(item.item_id)
            title = titles.values[titles.codes[row]] if titles and row >= 0 else ""
            described.append(
                admin.PreviewItem(
                    item_id=item.item_id,
                    title=str(title or ""),
                    score=item.score,
                    placed_by=item.placed_by,
                    label=item.label,
                    other_place=places.get(item.item_id),
                )
            )
        return described

    async def replay_draft(self, call: ApiCall) -> admin.ReplayAnswer:
        """What a draft would have done with the lists of the last days; one at a time.

        Raises:
            EventError: no placement can be called so.
            RequestError: another replay is under way, or there is no such placement.
            ServerError: a server does not answer.
        """
        name, query = call.path["name"], call.body
        rules, faults = self._drafts.read(name, query)
        if rules is None:
            return admin.ReplayAnswer(faults=faults)
        if name not in self._parts.placements.known:
            there = ", ".join(sorted(self._parts.placements.known)) or "none"
            raise refuse("not-found", f"no placement is named {name!r}", f"there are {there}")
        if self._replaying.locked():
            raise refuse("conflict", "another replay is under way", "wait until it is done")
        async with self._replaying:
            replay = replay_rules(
                self._parts.settings, Change(name, rules), query.days, query.lists
            )
            # In a loop of its own: lists are compared for seconds, and pages are shown meanwhile.
            found = await asyncio.to_thread(asyncio.run, replay)
        return _describe_replay(found)

    async def change_placement(self, call: ApiCall) -> contract.PlacementAnswer:
        """Write a placement.

        Raises:
            EventError, RequestError: the rules cannot be used, or somebody has changed it since.
        """
        name, query = call.path["name"], call.body
        rules = self._read_draft(name, query)
        self._check_follows(name, query)
        return await self.put_placement(replace(call, body=rules))

    async def try_draft(self, call: ApiCall) -> contract.TrialAnswer:
        """Ask the controller to try a draft out.

        Raises:
            EventError, RequestError: the rules cannot be used, somebody has changed the placement
                since, or the controller refuses.
            ServerError: no controller answers.
        """
        rules = self._read_draft(call.path["name"], call.body)
        self._check_follows(call.path["name"], call.body)
        asked = contract.TrialQuery(rules=rules, reason=call.body.reason)
        return await self.try_placement(replace(call, body=asked))

    async def remove_placement(self, call: ApiCall) -> contract.RemovalAnswer:
        """Remove a placement.

        Raises:
            RequestError: there is none of this name, or Kafka does not take it.
        """
        return await self.delete_placement(call)

    def _check_follows(self, name: str, draft: admin.ChangeQuery) -> None:
        """Refuse a draft that would undo what somebody has changed since it was made.

        Raises:
            RequestError: it would.
        """
        newest = self._parts.placements.known.get(name)
        revision = newest.revision if newest else -1
        if draft.follows is not None and draft.follows != revision:
            raise refuse(
                "conflict",
                f"{name} is at revision {revision} by now, and this was made from {draft.follows}",
                "look at what has changed, and save it again",
            )

    def _read_draft(self, name: str, draft: admin.RulesDraft) -> contract.PlacementRules:
        """The rules of a draft.

        Raises:
            EventError: they cannot be used.
        """
        rules, faults = self._drafts.read(name, draft)
        if rules is None:
            fault = faults[0]
            where = f"column {fault.column}: " if fault.column else ""
            raise EventError(fault.field or fault.part, fault.near, f"{where}{fault.problem}")
        return rules


def _find_changed(before: contract.PlacementRules, after: contract.PlacementRules) -> list[str]:
    """The fields that differ."""
    return [
        field.name
        for field in structs.fields(after)
        if getattr(before, field.name) != getattr(after, field.name)
    ]


def _describe_replay(found: RulesReplay) -> admin.ReplayAnswer:
    compared, policies = found.comparison, found.comparison.policies
    return admin.ReplayAnswer(
        faults=[],
        days=found.days,
        logged=found.logged,
        compared=compared.lists,
        changed=compared.changed,
        items_before=compared.items_before,
        items_after=compared.items_after,
        short_before=compared.short_before,
        short_after=compared.short_after,
        reproduced=compared.reproduced,
        beyond=compared.beyond,
        of_seen=found.of_seen,
        left_out=dict(found.left_out),
        earned=_describe_estimate(policies.logged) if policies else None,
        estimates=_describe_policies(policies) if policies else [],
        cannot_say=compared.silence,
    )


def _describe_policies(policies: PolicyComparison) -> list[admin.RewardFigures]:
    return [
        admin.RewardFigures(
            estimator=shown,
            reward=_describe_estimate(policies.other[name]),
            gain=_describe_estimate(policies.gains[name]),
        )
        for name, shown in _ESTIMATORS.items()
    ]


def _describe_estimate(estimate: Estimate) -> admin.RewardEstimate:
    low, high = estimate.interval
    return admin.RewardEstimate(value=estimate.value, low=low, high=high)
