"""The history of an hour and a day: bounded, whole after a restart, never stopped by its file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from headwater_client.admin.now import Span

from deploy.console.history import SPANS, History, Level, Slot, look_at, quantile

HOUR_S, DAY_S = 3600, 86_400
NOON_S = 1_764_000_000 // DAY_S * DAY_S + DAY_S // 2


class Clock:
    def __init__(self) -> None:
        self.now_s = float(NOON_S)

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "console" / "history.sqlite"


@pytest.fixture
def history(path: Path, clock: Clock) -> Iterator[History]:
    history = History(path, clock)
    yield history
    history.close()


def see(events: float = 1.0, seconds: float = 2.0, **levels: float) -> Slot:
    return Slot(seconds, {"events|clicks": events}, {n: look_at(v) for n, v in levels.items()})


def watch(
    history: History, clock: Clock, seconds: int, events: float = 1.0, every_s: int = 2
) -> None:
    for _ in range(0, seconds, every_s):
        clock.now_s += every_s
        history.add(see(events, every_s))


def test_an_empty_history_says_nothing(history: History) -> None:
    assert [history.read(span) for span in Span] == [[], []]
    assert [history.total(span) for span in Span] == [Slot(), Slot()]
    assert history.begin_ms() is None


def test_an_hour_is_told_in_steps_of_ten_seconds(history: History, clock: Clock) -> None:
    watch(history, clock, 40, events=3.0)
    steps = history.read(Span.HOUR)
    assert [at - NOON_S for at, _ in steps] == [0, 10, 20, 30, 40]
    assert [slot.counts["events|clicks"] for _, slot in steps] == [12, 15, 15, 15, 3]
    assert {slot.rate(slot.counts["events|clicks"]) for _, slot in steps} == {1.5}


def test_a_day_is_told_though_an_hour_of_it_is_kept_in_seconds(
    history: History, clock: Clock
) -> None:
    watch(history, clock, 2 * HOUR_S, events=20.0, every_s=20)
    total = sum(slot.counts["events|clicks"] for _, slot in history.read(Span.DAY))
    assert total == history.total(Span.DAY).counts["events|clicks"] == 2 * HOUR_S
    assert history.total(Span.HOUR).counts["events|clicks"] == pytest.approx(HOUR_S, abs=60)
    assert len(history.read(Span.HOUR)) <= HOUR_S // SPANS[Span.HOUR].step_s + 1


def test_its_size_is_bounded(history: History, clock: Clock, path: Path) -> None:
    watch(history, clock, DAY_S + 2 * HOUR_S, every_s=60)
    history.close()
    with sqlite3.connect(path) as file:
        counts = dict(file.execute("SELECT step, count(*) FROM slots GROUP BY step"))
    assert counts == {2: 60, 60: 1440}


def test_a_gap_is_a_gap(history: History, clock: Clock) -> None:
    history.add(see())
    clock.now_s += 30
    history.add(see())
    steps = history.read(Span.HOUR)
    assert [slot.seconds for _, slot in steps] == [2, 0, 0, 2]
    assert steps[1][1].rate(0.0) is None


def test_levels_keep_their_lowest_and_highest(history: History, clock: Clock) -> None:
    for lag in (4.0, 9.0, 2.0):
        history.add(see(age=lag))
        clock.now_s += 2
    (_, slot), *_ = history.read(Span.DAY)
    assert slot.levels["age"] == Level(3, 15.0, 2.0, 9.0)
    assert slot.levels["age"].mean == 5.0


def test_it_survives_a_restart(path: Path, clock: Clock) -> None:
    before = History(path, clock)
    watch(before, clock, 20)
    before.close()
    after = History(path, clock)
    watch(after, clock, 20)
    assert after.total(Span.HOUR).counts["events|clicks"] == 20
    assert after.begin_ms() == NOON_S * 1000
    after.close()


def test_it_survives_a_process_that_is_killed(path: Path, clock: Clock) -> None:
    killed = History(path, clock)
    watch(killed, clock, 20)
    copy = path.with_name("copy.sqlite")
    copy.write_bytes(path.read_bytes())
    wal = path.with_name(f"{path.name}-wal")
    copy.with_name(f"{copy.name}-wal").write_bytes(wal.read_bytes())
    killed.close()
    found = History(copy, clock)
    assert found.total(Span.HOUR).counts["events|clicks"] == 10
    found.close()


def test_a_clock_that_goes_back_loses_nothing_and_makes_no_peak(
    history: History, clock: Clock
) -> None:
    watch(history, clock, 600, events=4.0)
    clock.now_s -= 300
    watch(history, clock, 300, events=4.0)
    steps = history.read(Span.HOUR)
    assert sum(slot.counts["events|clicks"] for _, slot in steps) == 4.0 * 450
    assert {slot.rate(slot.counts["events|clicks"]) for _, slot in steps if slot.seconds} == {2.0}


def test_a_clock_that_was_far_ahead_leaves_nothing_behind(history: History, clock: Clock) -> None:
    clock.now_s += 365 * DAY_S
    history.add(see(events=1000.0))
    clock.now_s -= 365 * DAY_S
    history.add(see())
    history.add(see())
    assert history.total(Span.DAY).counts["events|clicks"] == 2
    assert history.begin_ms() == NOON_S * 1000


def _tear(path: Path) -> None:
    """What is left of a file that was being written when the disk went."""
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])


def _scribble(path: Path) -> None:
    path.write_bytes(b"no database at all, but a text of somebody's\n" * 100)


def _belong_to_another(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE slots (step INTEGER, at INTEGER, body BLOB)")


@pytest.mark.parametrize("harm", [_tear, _scribble, _belong_to_another])
def test_a_file_that_cannot_be_used_is_set_aside(
    harm: object, path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    history = History(path, clock)
    watch(history, clock, 1200)
    history.close()
    harm(path)  # type: ignore[operator]
    spoilt = path.read_bytes()
    after = History(path, clock)
    after.add(see(events=5.0))
    assert after.total(Span.HOUR).counts["events|clicks"] == 5.0
    after.close()
    (aside,) = [each for each in path.parent.iterdir() if each.name != path.name]
    assert aside.read_bytes() == spoilt
    assert "history_set_aside" in "".join(capsys.readouterr())


def test_a_file_that_breaks_while_it_is_used_is_set_aside(history: History, clock: Clock) -> None:
    history.add(see())
    # As a disk would leave it: a slot that is none.
    history._file.execute("UPDATE slots SET body = x'ff00'")
    history._file.commit()
    assert history.read(Span.HOUR) == []
    history.add(see(events=7.0))
    assert history.total(Span.HOUR).counts["events|clicks"] == 7.0


def test_another_process_keeps_its_history_in_memory(
    history: History, path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    history.add(see())
    other = History(path, clock)
    other.add(see(events=3.0))
    assert other.total(Span.HOUR).counts["events|clicks"] == 3.0
    assert history.total(Span.HOUR).counts["events|clicks"] == 1.0
    assert "history_in_memory" in "".join(capsys.readouterr())
    other.close()


def test_a_folder_that_cannot_be_written_is_no_reason_to_stop(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("no folder")
    history = History(tmp_path / "file" / "history.sqlite", clock)
    history.add(see())
    assert history.total(Span.HOUR).counts["events|clicks"] == 1.0
    assert "history_in_memory" in "".join(capsys.readouterr())
    history.close()


INF = float("inf")


@pytest.mark.parametrize(
    ("buckets", "fraction", "expected"),
    [
        ({}, 0.5, None),
        ({INF: 3.0}, 0.5, None),
        ({0.1: 0.0, INF: 0.0}, 0.5, None),
        # As promql/testdata/histograms.test of Prometheus has them.
        ({0.1: 5.0, 0.2: 7.0, 1.0: 11.0, INF: 12.0}, 0.2, 0.048),
        ({0.1: 5.0, 0.2: 7.0, 1.0: 11.0, INF: 12.0}, 0.5, 0.15),
        ({0.1: 5.0, 0.2: 7.0, 1.0: 11.0, INF: 12.0}, 0.8, 0.72),
        # Beyond the last bound nothing is known but the bound.
        ({0.1: 5.0, 0.2: 7.0, 1.0: 11.0, INF: 12.0}, 0.99, 1.0),
        # Read while it was being counted: no bucket has fewer than the one below it.
        ({0.1: 5.0, 0.2: 4.0, 1.0: 10.0, INF: 10.0}, 0.6, 0.2 + 0.8 / 5),
    ],
)
def test_quantiles_are_those_of_prometheus(
    buckets: dict[float, float], fraction: float, expected: float | None
) -> None:
    assert quantile(buckets, fraction) == (expected and pytest.approx(expected))
