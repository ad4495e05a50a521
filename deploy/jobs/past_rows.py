"""A person's row as it was when a list was made, or as it would be had something else happened.

Pure. A row is what its events make of it, by the worker's own functions, and which events it knew
is what a list says by its `sequence`: the sum, over the partitions of the log, of how far the row
had come. Of each partition it knew all up to there, so that few choices have the right sum.

    clicks      a    b    c    d         the list was made for c, and has sequence 5 + 13 + 31
    offsets     5    9   13   20         purchases up to 30 fit: x, y
    purchases     x    y       z
    offsets      12   30      44
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from headwater_client.events import Recommendation

from deploy.jobs.person_log import PersonLog, Record
from features.columns import CatalogueEntry
from features.events import current_ms
from features.rows import UserRow, apply_event, empty_user, observation, recover_user
from features.schema import FeatureSchema
from features.topics import Hash
from stream.identities import IdentityRecord, apply_identity

# How many choices of offsets are looked through.
_MOST_CHOICES = 200_000
Entries = Mapping[str, CatalogueEntry]


class KnownPart(NamedTuple):
    """Which part of a person's log a row knew.

    Attributes:
        offsets: of each source the last that it knew; -1 for none.
        problem: why it is not sure that it is this part; "" where it is.
    """

    offsets: Mapping[Hash, int]
    problem: str = ""

    def has(self, record: Record) -> bool:
        """Whether the row knew a record."""
        return record.offset <= self.offsets.get(record.source, -1)


def items_of(records: Iterable[Record]) -> list[str]:
    """The items of some records, each once."""
    events = (record.event for record in records if record.event is not None)
    return list(dict.fromkeys(event.item_id for event in events))


def build_row(records: Iterable[Record], entries: Entries, schema: FeatureSchema) -> UserRow:
    """The row that some records make, in their order, as a worker lets them.

    Args:
        entries: what the catalogue says of their items: categories are those of now.
    """
    row = empty_user(schema)
    for record in records:
        apply_record(row, record, entries, schema)
    recover_user(row, current_ms(), schema)
    return row


def apply_record(row: UserRow, record: Record, entries: Entries, schema: FeatureSchema) -> None:
    """Let one record change a row, in place, as a worker lets it."""
    if record.offset <= row.offsets.get(record.source, -1):
        return
    if isinstance(record, IdentityRecord):
        apply_identity(row, record, entries, schema)
    elif row.merges and row.merges.forgets(record.arrived_ms):
        row.offsets[record.source] = record.offset
    else:
        categories = entries[record.event.item_id].category_hashes
        seen = observation(record.event, record.source, record.offset, categories)
        apply_event(row, seen, schema)


def find_base(stored: UserRow, known: Collection[Hash]) -> int:
    """What sources that the log has no more, or never had, add to the sequence of a row.

    Those of a topic that was made anew, and of a file that rows were filled from.

    Args:
        stored: the row as it is now.
        known: the sources of the log.
    """
    return sum(at + 1 for source, at in stored.offsets.items() if source not in known)


def find_known_part(log: PersonLog, told: Recommendation, base: int) -> KnownPart:
    """Which part of a person's log the row of a list knew.

    Args:
        told: the list.
        base: of `find_base`.
    """
    offsets = _offsets_by_source(log.records)
    guess = {source: _last_before(log.records, source, _time_of(log, told)) for source in offsets}
    own = _find_own(log, told)
    if told.sequence is None:
        return KnownPart(
            guess,
            "the list does not say how much its row knew: its request brought events or a guest, "
            "or an older release made it: taken is what had arrived by then",
        )
    if told.topic and own is None:
        return KnownPart(guess, "the event that led to the list is not in the log any more")
    fixed = {} if own is None else {own.source: own.offset}
    wanted = told.sequence - base - sum(at + 1 for at in fixed.values())
    free = {source: own for source, own in offsets.items() if source not in fixed}
    choices = _choose(free, guess, wanted)
    if not choices:
        return KnownPart(
            guess | fixed,
            f"no part of the log has sequence {told.sequence}: something that the row knew is not "
            "in it: taken is what had arrived by then",
        )
    others = len(choices) - 1
    problem = (
        f"{others} other parts of the log have sequence {told.sequence}, too" if others else ""
    )
    return KnownPart(choices[0] | fixed, problem and f"{problem}: taken is the likeliest")


def _choose(
    offsets: Mapping[Hash, Sequence[int]], guess: Mapping[Hash, int], wanted: int
) -> list[dict[Hash, int]]:
    """Of each source a last offset, so that their sum is right; the nearest to a guess first."""
    reach = int(_MOST_CHOICES ** (1 / max(1, len(offsets))) / 2)
    choices = [_list_choices(own, guess[source], max(1, reach)) for source, own in offsets.items()]
    fitting = [choice for choice in product(*choices) if sum(at + 1 for at, _ in choice) == wanted]
    fitting.sort(key=lambda choice: sum(away for _, away in choice))
    return [
        {source: at for source, (at, _) in zip(offsets, choice, strict=True)} for choice in fitting
    ]


def _list_choices(offsets: Sequence[int], guess: int, reach: int) -> list[tuple[int, int]]:
    """Offsets around a guess, each with how far it is away; -1 stands for none."""
    there = [-1, *offsets]
    place = there.index(guess)
    start = max(0, place - reach)
    near = there[start : place + reach + 1]
    return [(at, abs(start + number - place)) for number, at in enumerate(near)]


def _offsets_by_source(records: Iterable[Record]) -> dict[Hash, list[int]]:
    found: dict[Hash, list[int]] = defaultdict(list)
    for record in records:
        found[record.source].append(record.offset)
    return {source: sorted(own) for source, own in found.items()}


def _last_before(records: Iterable[Record], source: Hash, time_ms: int) -> int:
    own = (
        record.offset
        for record in records
        if record.source == source and record.arrived_ms <= time_ms
    )
    return max(own, default=-1)


def _find_own(log: PersonLog, told: Recommendation) -> Record | None:
    """The event that a list was made for."""
    column = f"{told.topic}_{told.partition}"
    return next(
        (
            record
            for record in log.records
            if record.offset == told.offset and getattr(record, "column", "") == column
        ),
        None,
    )


def _time_of(log: PersonLog, told: Recommendation) -> int:
    own = _find_own(log, told)
    return told.produced_time if own is None else own.arrived_ms


def describe_difference(stored: UserRow, made: UserRow) -> list[str]:
    """In words, how a row that was made from the log differs from the one that is stored.

    What a worker may have absorbed meanwhile is in it, too.
    """
    parts = {
        "counters": _are_close(_counters_of(stored), _counters_of(made)),
        "history": stored.history == made.history,
        "categories": stored.categories.keys() == made.categories.keys()
        and all(
            _are_close((0, values), (0, made.categories[name]))
            for name, values in stored.categories.items()
        ),
        "seen items": list(stored.seen) == list(made.seen),
        "offsets": stored.offsets == made.offsets,
    }
    return [name for name, is_same in parts.items() if not is_same]


def _counters_of(row: UserRow) -> tuple[int, list[float]]:
    return row.reference_ms, row.counters


def _are_close(one: tuple[int, list[float]], other: tuple[int, list[float]]) -> bool:
    pairs = zip(one[1], other[1], strict=True)
    return one[0] == other[0] and all(math.isclose(a, b, abs_tol=1e-6) for a, b in pairs)
