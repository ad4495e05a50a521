"""Merging people: a guest's row becomes part of a member's. Pure, as `features.rows`.

A row is a sum over a person's events: counters add up, the newest events of both are the newest of
all, and sets are joined. So the sum of two rows is what all events of both would have made.
"""

from array import array

from features import decay
from features.rows import UserRow, insert_lowest, insert_newest
from features.schema import FeatureSchema


def merge_rows(row: UserRow, guest: UserRow, schema: FeatureSchema) -> None:
    """Add a guest's row to a member's, in place; offsets stay the member's own.

    The guest's remembered events are taken for older than the member's. What leaves the bounded
    memories is what would have left them had one person done all of it.
    """
    settings = schema.settings
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
