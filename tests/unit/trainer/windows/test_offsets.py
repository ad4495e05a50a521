"""What is settled stays so, and what Kafka has lost is counted."""

from __future__ import annotations

from trainer.windows.assembler import OffsetTracker, Position


def test_what_is_open_is_where_reading_resumes() -> None:
    settled = OffsetTracker()
    for offset in range(6):
        settled.read(offset)
    for offset in (0, 1, 3):
        settled.settle(offset)
    position = settled.position(("clicks", 0), "id")
    assert position == Position("clicks", "id", 0, 6, [(2, 3), (4, 6)])
    assert position.resume == 2
    assert [each for each in range(8) if not OffsetTracker.from_position(position).has(each)] == [
        2,
        4,
        5,
        6,
        7,
    ]


def test_without_anything_open_reading_resumes_at_the_next() -> None:
    assert Position("clicks", "id", 0, 6).resume == 6


def test_what_kafka_has_no_longer_is_counted_and_never_waited_for() -> None:
    settled = OffsetTracker.from_position(Position("clicks", "id", 0, 6, [(2, 3), (4, 6)]))
    assert settled.gone_before(5) == 2
    assert settled.position(("clicks", 0), "id").resume == 5
    assert settled.gone_before(8) == 3
    assert settled.next == 8
