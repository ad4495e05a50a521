"""A person: what is known, what they were sent and why, and what would be otherwise."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from headwater_client import EventError, contract
from headwater_client.admin import people
from headwater_client.events import MAX_ID
from msgspec.structs import replace

from deploy.console.parts import ConsoleOperations, ConsoleParts, ThreadTurns
from deploy.jobs import list_descriptions, past_rows, past_versions, person_log, reproduction
from features.columns import AttributeValue
from features.events import current_ms
from features.rows import UserRow
from features.rules import compiler, conditions
from features.rules import segments as segment_rules
from features.store.redis import RedisRowStore
from stream.api import filters, problems
from stream.api.parts import ApiCall
from stream.recommendations import RankedLists, RecommendationRequest
from stream.row_updates import RowView

HOUR_MS = 3_600_000
# Events of a page; and how much of the log one is made of.
_MOST_EVENTS = 200
_OF_A_PAGE = person_log.ReadingBounds(events=100_000)
# Of each partition, to find people who got lists lately.
_TAIL = 20
# Each reads up to gigabytes: others wait for their turn.
_AT_ONCE = 2


class _PersonNow(NamedTuple):
    """A person as they are: the row, and what of the log it is made of."""

    person: str
    stored: UserRow
    log: person_log.PersonLog
    known: Sequence[person_log.Record]
    entries: past_rows.Entries
    made: UserRow

    @property
    def differences(self) -> list[str]:
        """In what the stored row differs from what the log makes of it."""
        return past_rows.describe_difference(self.stored, self.made)


class PersonOperations(ConsoleOperations):
    """Tell of people; nothing is stored, and nobody is sent anything."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        self._log_turns = ThreadTurns(_AT_ONCE)
        self._past_versions = past_versions.PastVersions(
            parts.settings.worker_config, parts.recommender, parts.routes
        )
        self._item_names = list_descriptions.CatalogueNames(parts.items.table, parts.routes)
        self._reproducer = reproduction.ListReproducer(
            parts, parts.settings, self._past_versions, self._item_names
        )

    async def list_people(self, call: ApiCall) -> people.RecentPeopleAnswer:
        """People who got lists lately.

        Raises:
            ServerError: Kafka does not answer.
        """
        query: people.PeopleQuery = call.query
        reader = self._make_reader(person_log.ReadingBounds())
        found = await self._log_turns.run(reader.read_newest_lists, _TAIL)
        newest: dict[str, person_log.LoggedRecommendation] = {}
        for logged in found:
            newest.setdefault(logged.told.user_id, logged)
        return people.RecentPeopleAnswer(
            people=[
                self._describe_recent(self._parts.mask(person, call.key), logged)
                for person, logged in list(newest.items())[: query.limit]
            ]
        )

    def _describe_recent(
        self, shown: str, logged: person_log.LoggedRecommendation
    ) -> people.RecentPerson:
        first = logged.told.items[0].item_id if logged.told.items else ""
        return people.RecentPerson(
            person=shown, time=logged.time_ms, item_id=first, title=self._item_names.title(first)
        )

    async def show_person(self, call: ApiCall) -> people.PersonProfileAnswer:
        """What is known of a person.

        Raises:
            RequestError: nothing is.
            ServerError: Kafka or the store does not answer.
        """
        person = self._find_shown_person(call.path["person"], call)
        attributes = await self._read_known_attributes(person)
        if not ((await self._read_stored_row(person)).offsets or attributes):
            raise problems.refuse(
                "not-found",
                "nothing is known of this person",
                "look whether the id is right; they are known once a worker has taken an event",
            )
        now = await self._read_person(person, _OF_A_PAGE)
        names, schema, row, time_ms = self._item_names, self._parts.schema, now.stored, current_ms()
        events = [names.describe_record(record) for record in reversed(now.log.records)]
        events += _only_in_row(names.describe_history(row), events)
        is_masked = self._is_masked_for(call)
        assignment = self._parts.routes.assign(person)
        shown = assignment.shown if assignment else None
        into = row.merges.into.merge.member if row.merges and row.merges.into else ""
        segments = self._segment_values({"context": {}, compiler.PERSON: attributes})
        return people.PersonProfileAnswer(
            person=self._parts.mask(person, call.key),
            time=time_ms,
            counters=list_descriptions.describe_counters(row, schema, time_ms),
            categories=names.describe_categories(row, schema, time_ms),
            events=_hide(events[:_MOST_EVENTS], is_masked),
            seen=len(row.seen),
            segments=[
                people.SegmentMembership(name=name, is_member=segments[name])
                for name in sorted(segments)
                if not is_masked
            ],
            attributes={} if is_masked else dict(attributes),
            sequence=row.sequence,
            offsets=list_descriptions.describe_offsets(row, self._parts.sources),
            version=shown.version.version if shown else None,
            variant=shown.version.variant if shown else "",
            rollout_id=shown.rollout_id if shown else "",
            merged_into=self._parts.mask(into, call.key) if into else "",
            missing=list(now.log.missing),
            differences=now.differences,
            is_masked=is_masked,
            versions=self._parts.routes.loaded,
            placements=sorted(self._parts.placements.known),
        )

    async def ask_what_if(self, call: ApiCall) -> people.WhatIfAnswer:
        """A person's list as it is, and as it would be.

        Raises:
            EventError: there is no such placement, or an event is not in the person's log.
            RequestError: a filter cannot be used, or the version cannot be asked.
            ServerError: Kafka or the store does not answer.
        """
        query: people.WhatIfQuery = call.body
        person = self._find_shown_person(query.person, call)
        asks_for_person = filters.asks_for_person(
            self._parts.placements, self._parts.trials, _as_asked(query)
        )
        self._parts.check_may_ask(call.key, asks_for_person=asks_for_person)
        shown, attributes = (
            self._parts.mask(person, call.key),
            await self._read_known_attributes(person),
        )
        plain = people.WhatIfQuery(person=person, limit=query.limit)
        if not query.changes:
            stored = await self._read_stored_row(person)
            return people.WhatIfAnswer(
                person=shown, before=await self._ask_core(plain, stored, attributes)
            )
        now = await self._read_person(person, person_log.ReadingBounds())
        notes = _note(now)
        # Beside what the log makes without an event, what it makes with it.
        row = now.made if now.differences else now.stored
        before = await self._ask_core(plain, row, attributes)
        left_out = _find_left_out(query, now.known)
        gone = {(record.source, record.offset) for record in left_out}
        records = [
            record
            for record in now.known
            if (record.source, record.offset) not in gone and _has_happened(record, query.at)
        ]
        schema = self._parts.schema
        changed = past_rows.build_row(records, now.entries, schema)
        try:
            after = await self._ask_core(replace(query, person=person), changed, attributes)
        except past_versions.VersionProblemError as error:
            raise problems.refuse("conflict", str(error), "ask another version") from error
        if query.at and query.at < current_ms():
            notes.append(
                "what trends, what is for sale and what attributes say is as of now: it is not "
                "kept as it was"
            )
        events = [self._item_names.describe_record(record) for record in left_out]
        return people.WhatIfAnswer(
            person=shown,
            before=before,
            after=after,
            moves=list_descriptions.find_moves(before, after),
            left_out=_hide(events, self._is_masked_for(call)),
            counters_before=list_descriptions.describe_counters(row, schema),
            counters_after=list_descriptions.describe_counters(changed, schema, query.at),
            notes=notes,
        )

    async def list_sent(self, call: ApiCall) -> people.SentListsAnswer:
        """The lists that a person got.

        Raises:
            ServerError: Kafka does not answer.
        """
        query: people.SentListsQuery = call.query
        person = self._find_shown_person(query.person, call)
        found = await self._read_sent_lists(person, query.hours, query.limit)
        lists = [self._item_names.describe_sent(logged) for logged in found.lists]
        return people.SentListsAnswer(
            person=self._parts.mask(person, call.key),
            lists=[_hide_event(sent, self._is_masked_for(call)) for sent in lists],
            since=dict(found.since_ms),
        )

    async def reproduce_list(self, call: ApiCall) -> people.ReproductionAnswer:
        """All that made a list that was sent, made again from the log.

        Raises:
            RequestError: there is no such list any more.
            ServerError: Kafka or the store does not answer.
        """
        query: people.ReproductionQuery = call.query
        person, wanted = self._find_shown_person(query.person, call), call.path["recommendation_id"]
        found = await self._read_sent_lists(person, query.hours, None)
        # Sent again after a crash it has the same id: the first one was seen.
        same = [each for each in found.lists if each.told.recommendation_id == wanted]
        if not same:
            raise problems.refuse(
                "not-found",
                f"no list {wanted[:64]!r} of this person is in the log of {query.hours:g} hours",
                "lists of events are kept for a day, those of the API for a week; ask for more "
                "hours, or look whose it is",
            )
        now = await self._read_person(person, person_log.ReadingBounds())
        told = same[-1].told
        scope = self._scope_of_person(
            told.asked.context if told.asked else {}, await self._read_known_attributes(person)
        )
        asked = reproduction.PastQuestion(
            logged=same[-1],
            log=now.log,
            stored=now.stored,
            entries=now.entries,
            counts=await self._count_uses([item.item_id for item in told.items]),
            scope=scope,
        )
        answer = await self._reproducer.reproduce(self._parts.mask(person, call.key), asked)
        is_masked = self._is_masked_for(call)
        return replace(answer, sent=_hide_event(answer.sent, is_masked))

    async def load_past_version(self, call: ApiCall) -> people.LoadedVersionAnswer:
        """Load a version beside those that answer, to ask it.

        Raises:
            RequestError: it cannot be loaded.
        """
        query: people.LoadVersionQuery = call.body
        try:
            await self._past_versions.load(query.version)
        except past_versions.VersionProblemError as error:
            raise problems.refuse("conflict", str(error), "choose another version") from error
        return people.LoadedVersionAnswer(version=query.version)

    def _find_shown_person(self, name: str, call: ApiCall) -> str:
        """Who is meant.

        Raises:
            EventError: nobody can be called so.
            RequestError: it is no name that was shown to this key, where people are masked.
        """
        if len(name) > MAX_ID:
            raise EventError("person", name, f"expected at most {MAX_ID} characters")
        return self._parts.unmask(name, call.key)

    def _is_masked_for(self, call: ApiCall) -> bool:
        return not self._parts.may_read_people(call.key)

    def _make_reader(self, bounds: person_log.ReadingBounds) -> person_log.PersonLogReader:
        return person_log.PersonLogReader(self._parts.settings, self._parts.sources, bounds)

    async def _read_sent_lists(
        self, person: str, hours: float, most: int | None
    ) -> person_log.SentLists:
        since_ms = current_ms() - int(hours * HOUR_MS)
        reader = self._make_reader(person_log.ReadingBounds())
        return await self._log_turns.run(reader.read_lists, person, since_ms, most)

    async def _read_stored_row(self, person: str) -> UserRow:
        async with asyncio.timeout(self._parts.deadline_s):
            (row,) = await self._parts.rows.read([RowView(person)])
        return row

    async def _read_person(self, person: str, bounds: person_log.ReadingBounds) -> _PersonNow:
        stored = await self._read_stored_row(person)
        log = await self._log_turns.run(self._make_reader(bounds).read_log, person)
        # What no worker has taken yet is none of the row's.
        known = [r for r in log.records if r.offset <= stored.offsets.get(r.source, -1)]
        catalogue = self._parts.recommender.items.catalogue
        entries = await catalogue.get(past_rows.items_of(log.records))
        made = await asyncio.to_thread(past_rows.build_row, known, entries, self._parts.schema)
        return _PersonNow(person, stored, log, known, entries, made)

    async def _count_uses(self, item_ids: Sequence[str]) -> dict[str, list_descriptions.ItemCounts]:
        settings = self._parts.settings
        store = RedisRowStore(settings.store, any_server=True)
        try:
            return await list_descriptions.read_counts(
                store, self._parts.schema, settings.kafka.partitions, item_ids, current_ms()
            )
        finally:
            await store.close()

    async def _read_known_attributes(self, person: str) -> Mapping[str, AttributeValue]:
        async with asyncio.timeout(self._parts.deadline_s):
            return await self._parts.read_attributes(person)

    def _segment_values(self, scope: conditions.Scope) -> segment_rules.SegmentValues:
        known = self._parts.placements.segments.items()
        return segment_rules.SegmentValues(
            {name: each.segment.filter for name, each in known}, scope
        )

    def _scope_of_person(
        self, context: Mapping[str, contract.ContextValue], person: Mapping[str, AttributeValue]
    ) -> conditions.Scope:
        scope: conditions.Scope = {"context": context, compiler.PERSON: person}
        return {**scope, compiler.SEGMENT: self._segment_values(scope)}

    async def _ask_core(
        self, query: people.WhatIfQuery, row: UserRow, attributes: Mapping[str, AttributeValue]
    ) -> people.AskedList:
        """A list of a row, as a query has it.

        Raises:
            VersionProblemError: the version cannot be asked.
        """
        parts, core = self._parts, self._parts.recommender
        asked = _as_asked(query)
        scope = self._scope_of_person(query.context, attributes)
        wish = filters.read_wish(parts.items, parts.placements, parts.trials, asked, scope)
        time_ms = max(query.at or current_ms(), row.reference_ms)
        request = RecommendationRequest(
            query.person,
            time_ms,
            row,
            limit=wish.limit,
            wanted=wish.wanted,
            explained=True,
            rules=wish.bound,
        )
        if query.version is not None:
            core = (await self._past_versions.open(query.version)).now
        lists: RankedLists = await past_versions.list_items(core, request)
        if query.version is not None and lists.failed:
            raise past_versions.VersionProblemError(lists.failed)
        described = self._item_names.describe_asked(lists, time_ms)
        if wish.placement is None:
            return described
        return replace(described, placement=wish.placement.name, placement_revision=wish.revision)


def _as_asked(query: people.WhatIfQuery) -> contract.RecommendationQuery:
    """What the API would be asked."""
    return contract.RecommendationQuery(
        person=query.person,
        limit=query.limit,
        filter=query.filter,
        context=query.context,
        placement=query.placement,
    )


def _note(now: _PersonNow) -> list[str]:
    """What has to be known to read an answer that is made of the log."""
    notes = list(now.log.missing)
    if differences := now.differences:
        notes.append(
            f"the log makes another row than the stored one ({', '.join(differences)}): both lists "
            "are of the row that the log makes"
        )
    if waiting := len(now.log.records) - len(now.known):
        notes.append(f"{waiting} events are in the log that no worker has taken yet")
    return notes


def _find_left_out(
    query: people.WhatIfQuery, known: Iterable[person_log.Record]
) -> list[person_log.Record]:
    """The records that are to be left out.

    Raises:
        EventError: one is not in the person's log.
    """
    found = {list_descriptions.place_of(record): record for record in known}
    for place in query.leave_out:
        if place not in found:
            raise EventError("leave_out", place, "expected the place of an event of this person")
    return [found[place] for place in dict.fromkeys(query.leave_out)]


def _has_happened(record: person_log.Record, at: int | None) -> bool:
    happened_ms = record.event.timestamp if record.event else record.arrived_ms
    return at is None or happened_ms <= at


def _only_in_row(
    history: Iterable[people.HistoryEvent], logged: Iterable[people.HistoryEvent]
) -> list[people.HistoryEvent]:
    """What the row remembers and the log does not: of the same item at the same time."""
    there = {(event.item_id, event.timestamp) for event in logged}
    return [event for event in history if (event.item_id, event.timestamp) not in there]


def _hide(events: Sequence[people.HistoryEvent], is_masked: bool) -> list[people.HistoryEvent]:
    return list_descriptions.mask_events(events) if is_masked else list(events)


def _hide_event(sent: people.SentList, is_masked: bool) -> people.SentList:
    return replace(sent, event_id="") if is_masked else sent
