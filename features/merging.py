"""Merging people: a guest's row becomes part of a member's. Pure, as `features.rows`.

A row is a sum over a person's events: counters add up, the newest events of both are the newest of
all, and sets are joined. So the sum of two rows is what all events of both would have made.

A guest's row lives on as it was. What it says of the merge is a mark: whom the guest has become,
the row as it was then, and up to where it had absorbed each source. The row as it was is handed
over to the member; what the guest's row absorbs beyond is sent on. Both can be done again.

    guest's row   a ─ b ─ c ─┤ mark ├─ d ─ e        lives on
                      └──────┬──────┘  │   │
                         hand-over   sent on
                             ▼         ▼   ▼
    member's row  x ─ y ─ ── + ── z ── + ─ + ──     the sum
"""

from array import array
from typing import Final

from headwater_client.identities import Erased, Erasure, HandOver, Merge
from msgspec.structs import replace

from features import decay, person_merges
from features.columns import decode_user, encode_user
from features.rows import UserRow, empty_user, insert_lowest, insert_newest, undo_waiting
from features.schema import FeatureSchema
from features.store import USERS
from features.topics import hash64

_WHOLE: Final = dict.fromkeys(USERS.columns)


def merge_rows(row: UserRow, guest: UserRow, schema: FeatureSchema) -> None:
    """Add a guest's row to a member's, in place; offsets stay the member's own.

    The guest's remembered events are taken for older than the member's. What leaves the bounded
    memories is what would have left them had one person done all of it. What one of both has taken
    back before the other's row was there to say what, is taken back.
    """
    settings = schema.settings
    for each, other in ((guest, row), (row, guest)):
        undo_waiting(each, (other.merges or person_merges.NO_MERGES).waiting, schema)
    newest_ms = max(row.reference_ms, guest.reference_ms)
    mine, theirs = (_read_counters(each, newest_ms, schema) for each in (row, guest))
    row.counters = [one + other for one, other in zip(mine, theirs, strict=True)]
    row.categories = _merge_categories(row, guest, newest_ms, schema)
    for happened in guest.history:
        insert_newest(row.events, happened, settings.history_length)
    for item in guest.seen:
        insert_lowest(row.seen, item, settings.seen_limit)
    known = [*(each for each in guest.dedup_ids if each not in row.dedup_ids), *row.dedup_ids]
    row.dedup_ids = array("q", known[max(0, len(known) - settings.dedup_window) :])
    if guest.merges and guest.merges.waiting:
        merges = row.merges or person_merges.NO_MERGES
        waiting = *guest.merges.waiting, *merges.waiting
        row.merges = replace(merges, waiting=waiting[-person_merges.MAX_WAITING :])


def mark_merged(row: UserRow, merge: Merge, time_ms: int) -> None:
    """Let a guest's row say that the guest has become a member, in place.

    Nothing changes where the guest has become somebody before, or where the member has become this
    person: then they are one already.

    Args:
        time_ms: when Kafka took the message that says so.
    """
    merges = row.merges or person_merges.NO_MERGES
    if merges.into or hash64(merge.member) in merges.absorbed:
        return
    into = person_merges.MergedInto(merge, time_ms, dict(row.offsets), encode_user(row))
    row.merges = replace(merges, into=into)


def make_hand_over(into: person_merges.MergedInto, schema: FeatureSchema) -> HandOver:
    """What the member's row needs of a guest's: the same, however often it is made."""
    return HandOver(
        merge_id=into.merge.merge_id,
        user_id=into.merge.member,
        guest=into.merge.guest,
        features=schema.row_mark,
        row=into.columns,
        arrived_time=into.time_ms,
    )


def decode_handed_row(message: HandOver, schema: FeatureSchema) -> UserRow:
    """The guest's row.

    Raises:
        DamagedRowError: it is none.
    """
    return decode_user({**_WHOLE, **message.row}, schema)


def absorb_hand_over(row: UserRow, message: HandOver, schema: FeatureSchema) -> None:
    """Add a guest's row that was handed over to a person's, in place; twice, it counts once.

    Two who have become each other at the same moment are one under the lower id, and so are all of
    a longer circle: that row says no more that it has become somebody.
    """
    owner, merges = message.user_id, row.merges or person_merges.NO_MERGES
    merge = Merge(merge_id=message.merge_id, guest=message.guest, member=owner)
    guest = decode_handed_row(message, schema)
    theirs = (guest.merges or person_merges.NO_MERGES).absorbed
    is_there = merges.knows(merge) or message.guest == owner or hash64(owner) in theirs
    if is_there or merges.forgets(message.arrived_time):
        return
    if merges.into and owner == min(_find_circle(merges.into, message), default=""):
        merges = replace(merges, into=None)
    row.merges = merges
    merge_rows(row, guest, schema)
    absorbed = {**merges.absorbed, **theirs, hash64(message.guest): hash64(message.merge_id)}
    newest = list(absorbed.items())[-person_merges.MAX_ABSORBED :]
    row.merges = replace(row.merges, absorbed=dict(newest))


def _find_circle(into: person_merges.MergedInto, message: HandOver) -> list[str]:
    """Those who have become each other, if the person who gets a message closes a circle."""
    way = [message.guest, *message.by, message.user_id]
    return way[way.index(into.merge.member) :] if into.merge.member in way[:-1] else []


def is_sent_on(row: UserRow, source: int, offset: int) -> bool:
    """Whether what stands there came after its person had become somebody else."""
    if not row.merges or not row.merges.into:
        return False
    return offset > row.merges.into.offsets.get(source, -1)


def erase_row(row: UserRow, erasure: Erasure, time_ms: int, schema: FeatureSchema) -> None:
    """Forget a person, in place: what is left says which part of the log is gone.

    Args:
        time_ms: when Kafka took the message that says so.
    """
    empty = empty_user(schema)
    row.counters, row.categories = empty.counters, empty.categories
    row.events, row.seen, row.dedup_ids = empty.events, empty.seen, empty.dedup_ids
    # Hand-overs that come twice bring nobody back.
    absorbed = row.merges.absorbed if row.merges else {}
    erased = person_merges.RowErasure(erasure.erasure_id, time_ms, dict(row.offsets))
    row.merges = person_merges.PersonMerges(absorbed=absorbed, erased=erased)


def make_erased(row: UserRow, erasure: Erasure) -> Erased | None:
    """What says for how long a person's events are gone; None where another erasure came since."""
    erased = row.merges.erased if row.merges else None
    if erased is None or erased.erasure_id != erasure.erasure_id:
        return None
    return Erased(
        erasure_id=erasure.erasure_id,
        user_id=erasure.user_id,
        offsets={str(source): offset for source, offset in erased.offsets.items()},
        arrived_time=erased.time_ms,
    )


def pass_over_erased(row: UserRow, message: Erased) -> None:
    """Let a row that is made anew take for absorbed what was forgotten, in place."""
    offsets = {int(source): offset for source, offset in message.offsets.items()}
    for source, offset in offsets.items():
        row.offsets[source] = max(offset, row.offsets.get(source, -1))
    merges = row.merges or person_merges.NO_MERGES
    if not merges.forgets(message.arrived_time):
        erased = person_merges.RowErasure(message.erasure_id, message.arrived_time, offsets)
        row.merges = replace(merges, erased=erased)


def _read_counters(row: UserRow, time_ms: int, schema: FeatureSchema) -> list[float]:
    return decay.read(row.counters, row.reference_ms, time_ms, schema.user_half_lives)


def _merge_categories(
    row: UserRow, guest: UserRow, time_ms: int, schema: FeatureSchema
) -> dict[int, list[float]]:
    """Both people's counters by category as of a time, of as many categories as a row keeps."""
    lives, total = schema.category_half_lives, dict[int, list[float]]()
    for each in (row, guest):
        for name, values in each.categories.items():
            there = total.setdefault(name, [0.0] * len(lives))
            read = decay.read(values, each.reference_ms, time_ms, lives)
            there[:] = [have + value for have, value in zip(there, read, strict=True)]
    return {name: total[name] for name in sorted(total)[: schema.settings.category_limit]}
