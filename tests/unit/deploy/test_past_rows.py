"""Rows of then: which part of a person's log a list knew, and what it makes."""

from __future__ import annotations

from headwater_client import Click, Purchase
from headwater_client.events import Interaction, Recommendation
from headwater_client.identities import Erasure
from hypothesis import given
from hypothesis import strategies as st

from deploy.jobs.past_rows import (
    build_row,
    describe_difference,
    find_base,
    find_known_part,
    items_of,
)
from deploy.jobs.person_log import PersonLog, Record
from features.columns import CatalogueEntry
from features.schema import FeatureSchema
from features.settings import FeatureSettings
from features.topics import Hash
from stream.identities import IdentityRecord
from stream.row_updates import ConsumerRecord

SCHEMA = FeatureSchema(FeatureSettings())
CLICKS, PURCHASES, IDENTITIES = Hash(11), Hash(22), Hash(33)
START_MS = 1_700_000_000_000
COLUMNS = {CLICKS: "clicks_0", PURCHASES: "purchases_0"}


def record(source: Hash, offset: int, at_s: float, item: str = "") -> ConsumerRecord:
    kind: type[Interaction] = Click if source == CLICKS else Purchase
    time_ms = START_MS + int(1000 * at_s)
    event = kind(
        event_id=f"{source}-{offset}",
        user_id="ann",
        item_id=item or f"i{offset}",
        timestamp=time_ms,
    )
    return ConsumerRecord(event, COLUMNS[source], source, offset, time_ms)


# clicks at 5, 9, 13, 20; purchases at 12, 30, 44.
LOG = PersonLog(
    [
        record(CLICKS, 5, 1),
        record(PURCHASES, 12, 2),
        record(CLICKS, 9, 3),
        record(PURCHASES, 30, 4),
        record(CLICKS, 13, 5),
        record(PURCHASES, 44, 6),
        record(CLICKS, 20, 7),
    ]
)


def make_list(
    sequence: int | None, offset: int | None = 13, topic: str = "clicks"
) -> Recommendation:
    return Recommendation(
        recommendation_id="r",
        user_id="ann",
        event_id="e",
        items=[],
        model_version="1",
        variant="stable",
        event_time=START_MS,
        produced_time=START_MS + 5_500,
        fallback=False,
        topic=topic,
        partition=0 if topic else None,
        offset=offset,
        sequence=sequence,
    )


def entries(log: PersonLog) -> dict[str, CatalogueEntry]:
    return {name: CatalogueEntry((Hash(7),)) for name in items_of(log.records)}


def test_the_part_that_a_list_knew_has_its_sequence() -> None:
    part = find_known_part(LOG, make_list(sequence=14 + 31), base=0)
    assert (dict(part.offsets), part.problem) == ({CLICKS: 13, PURCHASES: 30}, "")
    known = [each for each in LOG.records if part.has(each)]
    row = build_row(known, entries(LOG), SCHEMA)
    assert row.sequence == 45
    assert [item for *_, item in row.history] == [
        item for *_, item in build_row(LOG.records[:5], entries(LOG), SCHEMA).history
    ]


def test_a_batch_may_have_been_ahead_or_behind_in_another_topic() -> None:
    behind = find_known_part(LOG, make_list(sequence=14 + 13), base=0)
    assert (behind.offsets[PURCHASES], behind.problem) == (12, "")
    ahead = find_known_part(LOG, make_list(sequence=14 + 45), base=0)
    assert (ahead.offsets[PURCHASES], ahead.problem) == (44, "")
    nothing = find_known_part(LOG, make_list(sequence=14), base=0)
    assert (nothing.offsets[PURCHASES], nothing.problem) == (-1, "")


def test_what_the_log_has_no_more_is_a_base() -> None:
    row = build_row(LOG.records, entries(LOG), SCHEMA)
    row.offsets[99] = 1000
    base = find_base(row, {CLICKS, PURCHASES})
    assert base == 1001
    assert find_known_part(LOG, make_list(14 + 31 + 1001), base).problem == ""


def test_what_does_not_fit_is_said_and_guessed_by_arrival() -> None:
    part = find_known_part(LOG, make_list(sequence=999), base=0)
    assert part.problem.startswith("no part of the log has sequence 999")
    assert dict(part.offsets) == {CLICKS: 13, PURCHASES: 30}
    gone = find_known_part(LOG, make_list(sequence=45, offset=8), base=0)
    assert "not in the log any more" in gone.problem
    unsaid = find_known_part(LOG, make_list(sequence=None, offset=None, topic=""), base=0)
    assert "does not say how much its row knew" in unsaid.problem
    assert dict(unsaid.offsets) == {CLICKS: 13, PURCHASES: 30}


def test_of_several_parts_the_likeliest_is_taken_and_the_others_are_said() -> None:
    log = PersonLog(
        [
            record(CLICKS, 4, 1),
            record(PURCHASES, 4, 2),
            record(CLICKS, 5, 3),
            record(PURCHASES, 5, 9),
        ]
    )
    served = make_list(sequence=5 + 6, offset=None, topic="")
    part = find_known_part(log, served, base=0)
    assert dict(part.offsets) == {CLICKS: 5, PURCHASES: 4}
    assert part.problem.startswith("1 other parts of the log have sequence 11, too")


@given(st.data())
def test_any_part_is_found_again_by_its_sequence(data: st.DataObject) -> None:
    offsets = {
        source: sorted(data.draw(st.sets(st.integers(0, 10_000), min_size=1, max_size=12)))
        for source in (CLICKS, PURCHASES)
    }
    log = PersonLog(
        [
            record(source, offset, at_s=place)
            for source, own in offsets.items()
            for place, offset in enumerate(own)
        ]
    )
    click = data.draw(st.sampled_from(offsets[CLICKS]))
    bought = data.draw(st.sampled_from([-1, *offsets[PURCHASES]]))
    part = find_known_part(log, make_list(click + bought + 2, offset=click), base=0)
    assert (dict(part.offsets), part.problem) == ({CLICKS: click, PURCHASES: bought}, "")


def test_a_forgotten_person_begins_anew() -> None:
    erasure = IdentityRecord(
        Erasure(erasure_id="x", user_id="ann"), IDENTITIES, 3, START_MS + 3_500
    )
    records: list[Record] = [*LOG.records[:3], erasure, *LOG.records[3:]]
    row = build_row(records, entries(LOG), SCHEMA)
    assert row.counters[SCHEMA.user_counters // len(SCHEMA.event_codes) - 1] == 2
    assert row.offsets == {CLICKS: 20, PURCHASES: 44, IDENTITIES: 3}


def test_rows_that_differ_are_told_by_what_differs() -> None:
    row = build_row(LOG.records, entries(LOG), SCHEMA)
    assert describe_difference(row, build_row(LOG.records, entries(LOG), SCHEMA)) == []
    less = build_row(LOG.records[1:], entries(LOG), SCHEMA)
    assert describe_difference(row, less) == ["counters", "history", "categories", "seen items"]
    other = build_row(LOG.records, dict.fromkeys(entries(LOG), CatalogueEntry()), SCHEMA)
    assert describe_difference(row, other) == ["categories"]
