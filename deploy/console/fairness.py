"""Fairness and harm: what lists show, against what is taken; and the report to hand on."""

import asyncio
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from operator import attrgetter
from time import monotonic
from typing import NamedTuple, TypeVar

import numpy as np
import structlog
from confluent_kafka import Message
from headwater_client import EVENT_TYPES, EventError, HeadwaterError, decode
from headwater_client.admin import fairness
from headwater_client.admin.fairness import ListSource
from headwater_client.documents import DocumentError, read_json
from headwater_client.event_types import EventSpec
from headwater_client.events import Recommendation
from msgspec import Struct
from msgspec.structs import replace

from deploy.console import article27, exposure, log_tails
from deploy.console.exposure import ShownList, TakenItem
from deploy.console.parts import ConsoleOperations, ConsoleParts
from deploy.settings import ConsoleSettings
from features import schema
from features.columns import AttributeValue
from features.events import current_ms
from features.rules.table import NUMBER, CatalogueTable
from features.schema import Float64Array
from features.settings import HOUR_MS, BrokerSettings
from stream.api.parts import ApiCall

_FRESH_S = 5.0
_TOPICS = (ListSource.SERVED.value, ListSource.RECOMMENDATIONS.value)
# People whose attribute is asked for; those with the newest lists.
_MOST_PEOPLE, _AT_ONCE = 5000, 100
_VALUE_CHARS = 64
# What an alert is given for, and so many must have been seen.
_LEAST_LISTS, _LEAST_CLICKS = 20, 100
_MUCH, _STUCK, _TIMES, _FALLBACKS = 0.5, 0.1, 2.0, 0.05
_TIME = attrgetter("time_ms")
log = structlog.get_logger()
EachT = TypeVar("EachT", ShownList, TakenItem)


class ExposureLog:
    """The newest lists and interactions of a window: what is new is read each time, and no more.

    Args:
        most: how many lists of each topic, and how many interactions, are held and read at a time.
        window_ms: how old they may be, by their arrival.

    Attributes:
        in_log: how many lists Kafka has, by topic.
        skipped: by topic, lists that came faster than they were read.
    """

    def __init__(self, kafka: BrokerSettings, most: int, window_ms: int) -> None:
        self._kafka = kafka
        self._most = most
        self._window_ms = window_ms
        self._behind: dict[str, dict[log_tails.Place, int]] = {}
        self._lists: dict[str, list[ShownList]] = {name: [] for name in _TOPICS}
        self._taken: list[TakenItem] = []
        self._reading = threading.Lock()
        self._read_s = float("-inf")
        self.in_log: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()

    def catch_up(self, now_ms: int) -> None:
        """Read what is new, and forget what is older than the window; from any thread.

        Several browsers ask at once: one look is enough for all of them.

        Raises:
            ServerError: Kafka does not answer.
        """
        with self._reading:
            if monotonic() - self._read_s > _FRESH_S:
                self._take_new(now_ms)
                self._read_s = monotonic()

    def _take_new(self, now_ms: int) -> None:
        since_ms = now_ms - self._window_ms
        for name in _TOPICS:
            lists = [*self._lists[name], *self._read(name, [name], since_ms, _read_list)]
            self._lists[name] = self._keep_newest(lists, since_ms)
        topics = [spec.topic for spec in EVENT_TYPES.values() if is_taking(spec)]
        taken = [*self._taken, *self._read("taken", topics, since_ms, _read_taken)]
        self._taken = self._keep_newest(taken, since_ms)

    def _keep_newest(self, held: list[EachT], since_ms: int) -> list[EachT]:
        newest = sorted(held, key=_TIME)[-self._most :]
        return [each for each in newest if each.time_ms >= since_ms]

    def lists_of(self, source: ListSource) -> list[ShownList]:
        """The lists of a topic, in the order of their arrival."""
        return self._lists[source.value]

    @property
    def taken(self) -> list[TakenItem]:
        """What people took, in the order of its arrival."""
        return self._taken

    def _read(
        self,
        name: str,
        topics: Sequence[str],
        since_ms: int,
        read: Callable[[Message], EachT | None],
    ) -> Iterator[EachT]:
        plan = log_tails.plan_tails(self._kafka, topics, self._most, self._behind.get(name))
        for message in log_tails.read_tails(self._kafka, plan):
            if message.timestamp()[1] >= since_ms and (found := read(message)) is not None:
                yield found
        # What fails before is read again the next time.
        self._behind[name] = {place: end for place, (_, end) in plan.reaches.items()}
        self.in_log[name] = plan.in_log
        self.skipped[name] += plan.skipped


def is_taking(spec: EventSpec) -> bool:
    """Whether an event of a type says that a person took an item."""
    return not (spec.negative or spec.about_list or spec.takes_back)


def _value_of(message: Message) -> bytes | None:
    value = message.value()
    return value.encode() if isinstance(value, str) else value


def _read_list(message: Message) -> ShownList | None:
    try:
        told = decode(Recommendation, _value_of(message))
    except EventError:
        return None
    return ShownList(
        told.user_id,
        # Of the same items there are many: each name is held once.
        tuple(sys.intern(item.item_id) for item in told.items),
        tuple(sys.intern(item.placed_by or item.reason.kind) for item in told.items),
        message.timestamp()[1],
        sys.intern(told.placement),
        told.fallback,
    )


def _read_taken(message: Message) -> TakenItem | None:
    spec = EVENT_TYPES.spec_of_topic(message.topic() or "")
    try:
        event = decode(spec.struct, _value_of(message), sys.maxsize)
    except EventError:
        return None
    if not event.item_id:
        return None
    return TakenItem(event.user_id, sys.intern(event.item_id), message.timestamp()[1])


class CatalogueCopy(NamedTuple):
    """What is known of items, as it was at a moment, to be read in another thread.

    Attributes:
        item_ids: by row.
        columns: codes, numbers and values of each column that was wanted.
    """

    item_ids: list[str]
    columns: Mapping[str, tuple[schema.Int64Array, Float64Array | None, list[object]]]

    def values_of(self, name: str) -> dict[str, tuple[str, ...]]:
        """The values that each item has of a column; no item where there is no such column."""
        if name not in self.columns:
            return {}
        codes, numbers, values = self.columns[name]
        texts = [_as_texts(value) for value in values]
        found: dict[str, tuple[str, ...]] = {}
        for row, (item, code) in enumerate(zip(self.item_ids, codes.tolist(), strict=True)):
            if numbers is not None and code == NUMBER:
                found[item] = (f"{numbers[row]:g}",)
            else:
                found[item] = texts[code]
        return found

    @property
    def available(self) -> list[str]:
        """The items that may be recommended."""
        codes, _, values = self.columns["available"]
        is_available = np.array([value is True for value in values])[codes]
        return [self.item_ids[row] for row in np.flatnonzero(is_available).tolist()]


def copy_catalogue(table: CatalogueTable, names: Sequence[str]) -> CatalogueCopy:
    """What is known of items now."""
    size = len(table)
    columns = {}
    for name in dict.fromkeys(["available", "title", "category", *names]):
        if (column := table.find_column(name)) is not None:
            numbers = None if column.numbers is None else column.numbers[:size].copy()
            columns[name] = column.codes[:size].copy(), numbers, list[object](column.values)
    return CatalogueCopy(list(table.item_ids), columns)  # type: ignore[arg-type]


def _as_texts(value: object) -> tuple[str, ...]:
    if isinstance(value, tuple):
        return value
    return () if value in (None, "") else (str(value),)


class _Measured(NamedTuple):
    """What the figures are made of."""

    window: fairness.ExposureWindow
    lists: list[ShownList]
    taken: list[TakenItem]
    catalogue: CatalogueCopy
    values: Mapping[str, str]
    notes: list[str]


class FairnessOperations(ConsoleOperations):
    """Tell who and what is shown how often, and what the law wants to be told."""

    def __init__(self, parts: ConsoleParts) -> None:
        super().__init__(parts)
        own = parts.settings.console
        window_ms = int(own.exposure_hours * HOUR_MS)
        self._exposure = ExposureLog(parts.settings.kafka, own.sample_lists, window_ms)

    async def measure_fairness(self, call: ApiCall) -> fairness.FairnessAnswer:
        """What lists show, against what is taken.

        Raises:
            ServerError: Kafka does not answer.
        """
        query: fairness.FairnessQuery = call.query
        await asyncio.to_thread(self._exposure.catch_up, current_ms())
        source = query.source or self._find_source()
        lists = [
            each
            for each in self._exposure.lists_of(source)
            if query.placement in (None, each.placement)
        ]
        own, notes = self._parts.settings.console, list[str]()
        values = await self._read_groups(own.group_attribute, lists, notes)
        measured = _Measured(
            self._describe_window(source, query.placement or "", lists),
            lists,
            self._exposure.taken,
            copy_catalogue(self._parts.items.table, [own.supplier]),
            values,
            notes,
        )
        return await asyncio.to_thread(_measure, measured, own)

    async def report_fairness(self, call: ApiCall) -> fairness.FairnessReport:
        """The report to hand on: it is made without Kafka too, and says then what it lacks."""
        found, not_measured = None, ""
        try:
            found = await self.measure_fairness(call)
        except HeadwaterError as error:
            not_measured = str(error)
        facts = await self._read_facts(found)
        known = self._parts.placements.known
        placements = [None, *(known[name] for name in sorted(known))]
        return fairness.FairnessReport(
            generated_time=current_ms(),
            release=version("headwater"),
            version=facts.version,
            systems=[article27.describe_system(each, facts) for each in placements],
            demands=list(article27.DEMANDS),
            to_complete=list(article27.TO_COMPLETE),
            fairness=found,
            not_measured=not_measured,
        )

    def _find_source(self) -> ListSource:
        is_served = bool(self._exposure.lists_of(ListSource.SERVED))
        return ListSource.SERVED if is_served else ListSource.RECOMMENDATIONS

    def _describe_window(
        self, source: ListSource, placement: str, lists: Sequence[ShownList]
    ) -> fairness.ExposureWindow:
        return fairness.ExposureWindow(
            source=source,
            placement=placement,
            lists=len(lists),
            shown=sum(len(each.items) for each in lists),
            people=len({each.person for each in lists}),
            clicks=len(self._exposure.taken),
            in_log=self._exposure.in_log[source.value],
            skipped=self._exposure.skipped[source.value],
            hours=self._parts.settings.console.exposure_hours,
            oldest_time=lists[0].time_ms if lists else None,
            newest_time=lists[-1].time_ms if lists else None,
        )

    async def _read_groups(
        self, attribute: str, lists: Sequence[ShownList], notes: list[str]
    ) -> dict[str, str]:
        """The value that people have of an attribute, of those who got the newest lists."""
        if not attribute:
            return {}
        people = list(dict.fromkeys(each.person for each in reversed(lists)))
        # Of a few who are left over one could tell what they got: from all, without the others.
        if len(people) >= _MOST_PEOPLE + self._parts.settings.console.least_group:
            people = people[:_MOST_PEOPLE]
            notes.append(f"groups: of the {_MOST_PEOPLE} people with the newest lists alone")
        found: dict[str, str] = {}
        try:
            for start in range(0, len(people), _AT_ONCE):
                some = people[start : start + _AT_ONCE]
                told = await asyncio.gather(*map(self._parts.read_attributes, some))
                known = (_as_value(each.get(attribute)) for each in told)
                found |= dict(zip(some, known, strict=True))
        except HeadwaterError as error:
            notes.append(f"groups: what is known of people cannot be read: {error}")
            return {}
        return found

    async def _read_facts(self, found: fairness.FairnessAnswer | None) -> article27.DisclosureFacts:
        stable = self._parts.routes.stable
        segments = self._parts.placements.segments
        facts = None
        if stable is not None:
            items = len(stable.vocabulary) - schema.FIRST_ITEM
            number, address = stable.version.version, stable.version.address
            facts = await asyncio.to_thread(read_version_facts, number, address, items)
        return article27.DisclosureFacts(
            settings=self._parts.settings,
            version=facts,
            reasons={each.reason: each.share for each in found.reasons} if found else {},
            segments={name: each.segment.filter for name, each in segments.items()},
        )


class _Manifest(Struct, frozen=True):
    """What is read of a version's manifest; a version of one's own making may say nothing."""

    created_ms: int | None = None
    trained_until_ms: int | None = None
    parent: int | None = None


def read_version_facts(number: int, address: str, items: int) -> fairness.LiveVersionFacts:
    """What a version says of itself; its number alone where it does not."""
    told = _Manifest()
    try:
        with schema.open_address(f"{address.rstrip('/')}/{schema.MANIFEST_FILE}") as file:
            told = read_json(file.read(schema.MAX_MANIFEST_BYTES), _Manifest)
    except (OSError, DocumentError) as error:
        # It answers all the same; the report has no more to say of it.
        log.info("version_not_told", version=number, reason=str(error))
    return fairness.LiveVersionFacts(
        version=number,
        trained_until=told.trained_until_ms,
        created_time=told.created_ms,
        items=items,
        parent=told.parent,
    )


def _as_value(value: AttributeValue) -> str:
    return exposure.NOT_SAID if value in (None, "") else str(value)[:_VALUE_CHARS]


def _measure(measured: _Measured, own: ConsoleSettings) -> fairness.FairnessAnswer:
    window, lists, all_taken, copy, values, notes = measured
    shown, taken = exposure.count_shown(lists), Counter(each.item for each in all_taken)
    catalogue, titles = copy.available, copy.values_of("title")
    categories, suppliers = copy.values_of("category"), copy.values_of(own.supplier)
    if own.supplier and not any(suppliers.values()):
        notes.append(f"suppliers: no item has {own.supplier}: set console.supplier")
    described = {
        name: (next(iter(titles.get(name, ())), ""), categories.get(name, ())) for name in shown
    }
    repetition = exposure.measure_repetition(lists)
    common = {name: described[name][0] for name in repetition.common_list}
    repetition = replace(
        repetition, common_titles={name: title for name, title in common.items() if title}
    )
    head = exposure.find_head(taken, own.tail_quantile)
    concentration = exposure.measure_concentration(lists, taken, catalogue, own.tail_quantile)
    groups = None
    if values:
        grouped = exposure.GroupedExposure(lists, all_taken, head or None, len(catalogue))
        groups = exposure.measure_groups(own.group_attribute, values, own.least_group, grouped)
    answer = fairness.FairnessAnswer(
        window=window,
        concentration=concentration,
        shares=[
            exposure.measure_shares(by, found, shown, taken)
            for by, found in (("category", categories), (own.supplier, suppliers))
            if any(found.values())
        ],
        repetition=repetition,
        blocked=list(
            exposure.find_blocked(own.blocked_words, own.blocked_categories, shown, described)
        ),
        groups=groups,
        reasons=exposure.measure_reasons(lists),
        alerts=[],
        notes=notes,
        computed_time=current_ms(),
    )
    fallbacks = sum(each.is_fallback for each in lists) / len(lists) if lists else 0.0
    alerts = list(list_alerts(answer, fallbacks))
    return replace(answer, alerts=alerts)


def list_alerts(
    answer: fairness.FairnessAnswer, fallbacks: float
) -> Iterator[fairness.FairnessAlert]:
    """What somebody should look at; nothing is said of few lists but what is blocked.

    Args:
        fallbacks: the share of lists that no version of the model has made.
    """
    for found in answer.blocked:
        yield fairness.FairnessAlert(
            check=f"blocked.{found.kind}",
            title=f"the {found.kind} {found.blocked!r} was shown",
            detail=f"{found.shown} times, in {found.items} items",
            link="/fairness#blocked",
            remedy="leave such items out by the filter of each placement, or take them off sale",
        )
    if answer.window.lists < _LEAST_LISTS:
        return
    yield from _alert_of_repetition(answer.repetition)
    yield from _alert_of_shares(answer)
    if fallbacks > _FALLBACKS:
        yield fairness.FairnessAlert(
            check="fallbacks",
            title="lists that no model has made",
            detail=f"{fallbacks:.0%} of the lists are what is popular",
            link="/fairness#reasons",
            remedy="look at the versions and at Triton: headwater status",
        )


def _alert_of_repetition(found: fairness.Repetition) -> Iterator[fairness.FairnessAlert]:
    if found.stuck_people > _STUCK * found.people:
        yield fairness.FairnessAlert(
            check="repetition.stuck",
            title="people get the same list again and again",
            detail=f"{found.stuck_people} of {found.people} people, at least {found.run_length} "
            "times in a row",
            link="/fairness#repetition",
            remedy="ask with exclude_shown, or let the placement explore (exploration.share)",
        )
    if found.people >= _LEAST_LISTS and found.common_list_people > _MUCH * found.people:
        yield fairness.FairnessAlert(
            check="repetition.common",
            title="most people get the same list",
            detail=f"{found.common_list_people} of {found.people} people",
            link="/fairness#repetition",
            remedy="look whether events carry the person's own id, and whether the model answers",
        )


def _alert_of_shares(answer: fairness.FairnessAnswer) -> Iterator[fairness.FairnessAlert]:
    if answer.window.clicks < _LEAST_CLICKS:
        return
    for table in answer.shares:
        for line in table.lines:
            if line.ratio is not None and line.shown > 0.1 and line.ratio > _TIMES:
                yield fairness.FairnessAlert(
                    check=f"shares.{table.by}",
                    title=f"{table.by} {line.name!r} is shown more than it is clicked",
                    detail=f"{line.shown:.0%} of the places, {line.clicked:.0%} of the clicks",
                    link=f"/fairness#shares-{table.by}",
                    remedy="a placement's at_most or diversity gives others a place",
                )
    tail = answer.concentration
    if tail and tail.tail_share is not None and tail.tail_share * _TIMES < (tail.tail_clicks or 0):
        yield fairness.FairnessAlert(
            check="tail",
            title="the long tail is shown less than it is clicked",
            detail=f"{tail.tail_share:.0%} of the places, {tail.tail_clicks:.0%} of the clicks",
            link="/fairness#concentration",
            remedy="a placement's exploration or diversity gives it places",
        )
