"""User and item rows: how one event changes a row, and which events a row has absorbed.

Pure: neither Kafka nor Feast is known here. The stream and the trainer both call these functions,
so that a feature has one definition.

Exactly once: a row carries the offset up to which it has absorbed each source (a partition of a
topic). Kafka delivers a partition in order, so a row at offset X holds all of its key's events up
to X, and an event at or below X is a replay. Bounded sets keep their lowest hashes: an arbitrary
choice, but one that no order of arrival changes.

What one event of another takes back counts no more, as of the time of that one: exact, as counters
are sums. It may arrive before that one.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from headwater_client.event_types import EVENT_TYPES
from headwater_client.events import Interaction
from msgspec.structs import replace

from features import decay
from features.events import latest_reference_ms
from features.person_merges import MAX_WAITING, NO_MERGES, PersonMerges, TakenBack
from features.schema import FeatureSchema
from features.topics import Hash, hash64


class Observation(NamedTuple):
    """One interaction as the rows see it.

    `type` is the code of its event type.
    `categories` are those that the catalogue gave the item when the event was read.
    `strength` is what of a whole event it is; below 0 where it has no place in a history.
    `taken_ms` is when that happened which it takes back; None where it does not say.
    """

    type: int
    user_id: str
    item_id: str
    item: Hash
    time_ms: int
    event: Hash
    source: Hash
    offset: int
    categories: tuple[Hash, ...] = ()
    strength: float = 1.0
    taken_ms: int | None = None

    @property
    def is_action(self) -> bool:
        """Whether the person has taken to the item: it has a place in their history."""
        return self.strength >= 0


def observation(
    event: Interaction, source: Hash, offset: int, categories: tuple[Hash, ...] = ()
) -> Observation:
    """The observation that a message of the topics is."""
    spec = EVENT_TYPES.spec_of(event)
    return Observation(
        spec.code,
        event.user_id,
        event.item_id,
        hash64(event.item_id),
        event.timestamp,
        # In capitals, as rows have it from the beginning.
        hash64(f"{spec.name.upper()}/{event.event_id}"),
        source,
        offset,
        categories,
        spec.measure_strength(event),
        getattr(event, "taken_time", None) if spec.takes_back else None,
    )


@dataclass(slots=True)
class UserRow:
    """What is known of one person.

    `counters`: float[signals * half_lives] and each of `categories`: float[category_half_lives],
    both as of `reference_ms`, the time of the newest event. `events`: int64[3 * n]: time_ms, type
    and item of each of the newest `history_length` events, ascending, one after another: in this
    form they become a tensor without a copy in Python. `seen`: int64, hashes of items that are not
    recommended again, ascending. `dedup_ids`: int64, hashes of the newest event ids, in order of
    arrival. `offsets`: the last absorbed offset by source. `merges`: who has become whom; None
    where nothing was ever said of it.
    """

    counters: list[float]
    events: "array[int]" = field(default_factory=lambda: array("q"))
    categories: dict[int, list[float]] = field(default_factory=dict)
    seen: "array[int]" = field(default_factory=lambda: array("q"))
    dedup_ids: "array[int]" = field(default_factory=lambda: array("q"))
    offsets: dict[int, int] = field(default_factory=dict)
    merges: PersonMerges | None = None

    @property
    def reference_ms(self) -> int:
        """The time that the counters are kept at; 0 for a person without events."""
        return self.events[-3] if self.events else 0

    @property
    def sequence(self) -> int:
        """How much of all that the row knows: any event that it absorbs raises it.

        Absorbing an event raises one of the offsets, and nothing lowers one.
        """
        return sum(self.offsets.values()) + len(self.offsets)

    @property
    def history(self) -> list[tuple[int, int, int]]:
        """The events as (time_ms, type, item), ascending."""
        flat = self.events
        return list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))


@dataclass(slots=True)
class ItemGroup:
    """What one source has said of one item: a column of the item's row, with a single writer.

    `values`: float[item_half_lives] as of `reference_ms`.
    """

    values: list[float]
    source: int = 0
    offset: int = -1
    reference_ms: int = 0


def empty_user(schema: FeatureSchema) -> UserRow:
    """The row of a person without events."""
    return UserRow([0.0] * schema.user_counters)


def empty_group(schema: FeatureSchema) -> ItemGroup:
    """The column of an item that a source has not mentioned yet."""
    return ItemGroup([0.0] * len(schema.item_half_lives))


def apply_event(row: UserRow, event: Observation, schema: FeatureSchema) -> bool:
    """Let one event change its person's row, in place.

    Returns:
        Whether the event counts: False for a replay (its offset is absorbed already) and for an
        event that an app sent twice. An event that counts for the person counts for the item.
    """
    if event.offset <= row.offsets.get(event.source, -1):
        return False
    row.offsets[event.source] = event.offset
    if event.event in row.dedup_ids:
        return False
    _remember(row, event.event, schema.settings.dedup_window)
    if event.type in schema.takes_back:
        _take_back(row, event, schema)
        return True
    if event.is_action:
        was_taken_back = is_taken_back(row, event, schema)
        _count(row, event, schema, 0.0 if was_taken_back else 1.0)
        add_to_history(row, event, schema, as_look=was_taken_back)
    if event.type in schema.seen_by or speaks_against(event, schema):
        insert_lowest(row.seen, event.item, schema.settings.seen_limit)
    return True


def is_taken_back(row: UserRow, event: Observation, schema: FeatureSchema) -> bool:
    """Whether another event that arrived before takes this one back."""
    return (
        event.type in schema.can_be_taken_back
        and _mark_of(event.type, event.item, event.time_ms) in row.dedup_ids
    )


def speaks_against(event: Observation, schema: FeatureSchema) -> bool:
    """Whether an event says that its person does not want the item."""
    has_a_say = event.type in schema.stands_for or event.type in schema.seen_by
    return has_a_say and not event.is_action


def add_to_history(
    row: UserRow, event: Observation, schema: FeatureSchema, *, as_look: bool = False
) -> None:
    """Give an event its place among the newest of its person, in place.

    Args:
        as_look: it was taken back, and what is left of it is a look at the item.
    """
    code = schema.event_codes[0] if as_look else schema.stands_for[event.type]
    happened = event.time_ms, code, event.item
    insert_newest(row.events, happened, schema.settings.history_length)


def find_item_event(row: UserRow, event: Observation, schema: FeatureSchema) -> Observation | None:
    """An event that counts for its person as its item counts it; None where that does not.

    By `features.item_event_limit`, so that one person is not a trend. Asked of the row before the
    event is applied to it: a replay then decides from the same row. One that takes another back
    counts as of that one's time.
    """
    if taken := schema.takes_back.get(event.type):
        taken_ms = _find_taken_ms(row, event, schema)
        if taken_ms is None or _is_said(row, taken, event.item, taken_ms):
            return None
        return event._replace(time_ms=taken_ms, strength=1.0)
    if not event.is_action:
        return None
    limit = schema.settings.item_event_limit
    if limit is None:
        return event
    place = schema.stands_for[event.type], event.item
    events = zip(row.events[1::3], row.events[2::3], strict=True)
    return event if sum(each == place for each in events) < limit else None


def apply_item_event(group: ItemGroup, event: Observation, schema: FeatureSchema) -> None:
    """Let one event that counts change its item's group, in place; a replay changes nothing."""
    if group.source != event.source:
        # The topic was made anew: its offsets start again, what was counted stays.
        group.source, group.offset = event.source, -1
    if event.offset <= group.offset:
        return
    group.offset = event.offset
    group.reference_ms = decay.add(
        group.values, group.reference_ms, event.time_ms, (event.strength,), schema.item_half_lives
    )


def recover_user(row: UserRow, now_ms: int, schema: FeatureSchema) -> None:
    """Free a row from events of a time that cannot be, in place: they lie in a far future.

    Beside one of the year 2200 all that happens now adds nothing. It loses its place in the
    history, the decayed counters are made anew from the events that are left there, and plain
    counts stay. What categories had decayed to is gone.
    """
    latest_ms = latest_reference_ms(now_ms)
    if row.reference_ms <= latest_ms:
        return
    history = [event for event in row.history if event[0] <= latest_ms]
    row.events = array("q", chain.from_iterable(history))
    plain, size = row.counters, len(schema.user_half_lives)
    row.counters, reference_ms = [0.0] * len(plain), 0
    for time_ms, code, _ in history:
        weights = [float(code == each) for each in schema.event_codes]
        reference_ms = decay.add(
            row.counters, reference_ms, time_ms, weights, schema.user_half_lives
        )
    row.counters[size - 1 :: size] = plain[size - 1 :: size]
    for values in row.categories.values():
        values[:-1] = [0.0] * (len(values) - 1)


def recover_group(group: ItemGroup, now_ms: int) -> None:
    """Let a group that is kept at a time that cannot be go on from now, in place.

    What it had decayed to at that time is what it has now.
    """
    if group.reference_ms > latest_reference_ms(now_ms):
        group.reference_ms = now_ms


def says_otherwise(row: UserRow, event: Observation, schema: FeatureSchema) -> bool:
    """Whether an event whose id its person has had is another one: of another item or time.

    The row knows its newest `history_length` events; of one that is older it cannot be said, nor
    of one that has no place among them.
    """
    if not event.is_action:
        return False
    known = {(event.time_ms, schema.stands_for[event.type], event.item)}
    # It may have been taken back since.
    known.add((event.time_ms, schema.event_codes[0], event.item))
    if not known.isdisjoint(row.history):
        return False
    is_all = len(row.events) < 3 * schema.settings.history_length
    return is_all or event.time_ms > row.events[0]


def popularity(
    groups: Iterable[tuple[int, ItemGroup]], time_ms: int, schema: FeatureSchema
) -> list[float]:
    """The decayed popularity of an item at a time: its groups' weighted sum.

    Args:
        groups: each with the code of its event type.
        time_ms: when.
        schema: what each type weighs.

    Returns:
        float[item_half_lives]; the last is the weighted count of all events.
    """
    total = [0.0] * len(schema.item_half_lives)
    for code, group in groups:
        values = decay.read(group.values, group.reference_ms, time_ms, schema.item_half_lives)
        weight = schema.weight[code]
        total = [have + weight * value for have, value in zip(total, values, strict=True)]
    return total


def _find_taken_ms(row: UserRow, event: Observation, schema: FeatureSchema) -> int | None:
    """When that happened which an event takes back; None where nobody knows, or it cannot be."""
    if event.taken_ms is not None:
        return event.taken_ms if event.taken_ms <= event.time_ms else None
    wanted = schema.stands_for[schema.takes_back[event.type]], event.item
    newest_first = reversed(row.history)
    return next(
        (at for at, *what in newest_first if tuple(what) == wanted and at <= event.time_ms), None
    )


def _take_back(row: UserRow, event: Observation, schema: FeatureSchema) -> None:
    """Let that count no more which an event takes back; what is left of it is a look.

    Where it has not arrived yet, a mark among the remembered events tells it so when it does. What
    is older than the whole history was counted, or will be: its counters are a sum.
    """
    taken, taken_ms = schema.takes_back[event.type], _find_taken_ms(row, event, schema)
    if taken_ms is None:
        return
    if _is_said(row, taken, event.item, taken_ms):
        return
    happened = (taken_ms, schema.stands_for[taken], event.item)
    history = row.history
    is_there = happened in history
    is_full = len(history) == schema.settings.history_length
    is_older = is_full and not is_there and taken_ms <= history[0][0]
    mark_of = _older_mark_of if is_older else _mark_of
    mark = mark_of(taken, event.item, taken_ms)
    _remember(row, mark, schema.settings.dedup_window)
    undone = event._replace(type=taken, time_ms=taken_ms, strength=1.0)
    if is_there:
        _undo(row, undone, schema)
    elif is_older:
        _count(row, undone, schema, -1.0)
    else:
        merges = row.merges or NO_MERGES
        waiting = *merges.waiting, TakenBack(taken, event.item, taken_ms, event.categories)
        row.merges = replace(merges, waiting=waiting[-MAX_WAITING:])


def undo_waiting(row: UserRow, waiting: Iterable[TakenBack], schema: FeatureSchema) -> None:
    """Let what another row of the same person has taken back count no more, in place."""
    for said in waiting:
        item, nowhere, categories = Hash(said.item), Hash(0), tuple(map(Hash, said.categories))
        undone = Observation(
            said.code, "", "", item, said.time_ms, nowhere, nowhere, -1, categories
        )
        if (said.time_ms, schema.stands_for[said.code], said.item) in row.history:
            _undo(row, undone, schema)


def _undo(row: UserRow, event: Observation, schema: FeatureSchema) -> None:
    """Take an event out of the counters, and leave a look in its place."""
    _count(row, event, schema, -1.0)
    place = 3 * row.history.index((event.time_ms, schema.stands_for[event.type], event.item))
    del row.events[place : place + 3]
    add_to_history(row, event, schema, as_look=True)


def _mark_of(code: int, item: int, time_ms: int) -> Hash:
    """Names an event that is taken back, whatever its id."""
    return hash64(f"TAKEN BACK/{code}/{item}/{time_ms}")


def _older_mark_of(code: int, item: int, time_ms: int) -> Hash:
    """Names one that was subtracted at once: whenever it arrives, it counts."""
    return hash64(f"TAKEN BACK AT ONCE/{code}/{item}/{time_ms}")


def _is_said(row: UserRow, code: int, item: int, time_ms: int) -> bool:
    """Whether one that takes this back was there before: several take back what was there once."""
    marks = _mark_of(code, item, time_ms), _older_mark_of(code, item, time_ms)
    return any(mark in row.dedup_ids for mark in marks)


def _count(row: UserRow, event: Observation, schema: FeatureSchema, times: float) -> None:
    """Count an event so many times: once, not at all, or once less."""
    stands_for = schema.stands_for[event.type]
    weights = [times * (stands_for == code) for code in schema.event_codes]
    reference = row.reference_ms
    decay.add(row.counters, reference, event.time_ms, weights, schema.user_half_lives)
    if row.categories or event.categories:
        weight = times * event.strength * schema.weight[event.type]
        _count_categories(row.categories, reference, event, weight, schema.category_half_lives)
    while len(row.categories) > schema.settings.category_limit:
        del row.categories[max(row.categories)]


def _count_categories(
    categories: dict[int, list[float]],
    reference_ms: int,
    event: Observation,
    weight: float,
    half_lives: tuple[float, ...],
) -> None:
    if event.time_ms > reference_ms:
        left = decay.factors(event.time_ms - reference_ms, half_lives)
        for values in categories.values():
            values[:] = [value * kept for value, kept in zip(values, left, strict=True)]
    added = decay.factors(max(0, reference_ms - event.time_ms), half_lives)
    for category in event.categories:
        values = categories.setdefault(category, [0.0] * len(half_lives))
        values[:] = [value + weight * part for value, part in zip(values, added, strict=True)]


def _remember(row: UserRow, event: int, limit: int) -> None:
    row.dedup_ids.append(event)
    if len(row.dedup_ids) > limit:
        del row.dedup_ids[0]


def insert_newest(events: "array[int]", event: tuple[int, ...], limit: int) -> None:
    """Insert an event where it belongs by time, type, item: no order of arrival shows."""
    number = len(events) // 3

    def event_at(place: int) -> tuple[int, ...]:
        return tuple(events[3 * place : 3 * place + 3])

    if number and event_at(number - 1) > event:
        place = 3 * bisect_right(range(number), event, key=event_at)
        events[place:place] = array("q", event)
    else:
        events.extend(event)
    if number == limit:
        del events[:3]


def insert_lowest(items: "array[int]", item: int, limit: int) -> None:
    """Insert into a set of which the lowest are kept: no order of arrival shows."""
    place = bisect_left(items, item)
    if place == len(items) or items[place] != item:
        items.insert(place, item)
        del items[limit:]
