"""What the report says of rows: ratios, differences, a chart."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from headwater_client.events import Click
from rich.console import Console

from bench.quality.figures import (
    LARGE,
    OURS,
    draw,
    figures,
    make_difference_table,
    make_table_of_methods,
    ratios,
    summary,
    verdicts,
    with_differences,
)
from bench.quality.questions import (
    TEST,
    Answers,
    Protocol,
    Questions,
    Ties,
    questions,
    rules,
    takes_of,
)
from trainer.datasets import Log
from trainer.metrics import ndcg

PART = f"{OURS} without text"
PEOPLE = 60


def row(value: float, returns: float | None = None) -> dict[str, Any]:
    back = {} if returns is None else {"ndcg_at_10": returns}
    interval = [value - 0.01, value + 0.01]
    return {"ndcg_at_10": value, "ndcg_at_10_interval": interval, "groups": {"return_visits": back}}


@pytest.fixture
def asked() -> Questions:
    """People with three takes each; every second one takes the last after a day."""
    events = [
        Click(
            event_id=f"{person}-{at}",
            user_id=f"u{person:02}",
            item_id=f"i{(person + at) % 7}",
            timestamp=1_700_000_000_000 + 1000 * (60 * at + (at == 2) * (person % 2) * 86_400),
        )
        for person in range(PEOPLE)
        for at in range(3)
    ]
    log = Log(sorted(events, key=lambda event: event.timestamp), [])
    return questions(takes_of(log, Protocol.LEAVE_ONE_OUT), TEST)


def print_table(drawn: Any) -> str:
    text = io.StringIO()
    Console(width=200, file=text).print(drawn)
    return text.getvalue()


def test_ours_is_held_against_the_best_of_all_others() -> None:
    rows = {
        "leave_one_out": {
            "popularity": row(0.04, 0.05),
            "SASRec (RecTools)": row(0.08, 0.02),
            OURS: row(0.1, 0.1) | {"held_out": 0.11},
            LARGE: row(0.12, 0.08) | {"held_out": 0.1},
            PART: row(0.2, 0.3),
        },
        "global_time": {
            "popularity": row(0.05),
            OURS: row(0.1) | {"held_out": 0.1},
            LARGE: row(0.09) | {"held_out": 0.11},
        },
    }
    found = ratios(rows)
    # Held-out events choose the size, not the test.
    assert found["ratio_to_best_peer"] == pytest.approx({"leave_one_out": 1.25, "global_time": 1.8})
    of_default = {"leave_one_out": 1.25, "global_time": 2}
    assert found["default_ratio_to_best_peer"] == pytest.approx(of_default)
    # Best at return visits is another than the best of all; without any there is no ratio.
    assert found["ratio_on_return_visits"] == pytest.approx({"leave_one_out": 2})
    # Beside those alone that learn: a protocol without any has none.
    assert found["ratio_to_best_learned_peer"] == pytest.approx({"leave_one_out": 1.25})
    assert found["learned_ratio_on_return_visits"] == pytest.approx({"leave_one_out": 5})
    report = summary(rules(Ties.FILE, repeats=True), rows, 1)
    assert report["ratio_to_best_peer"] == found["ratio_to_best_peer"]
    assert report["ties"] == "ties file: inside a second the order of the log's file; items return"
    said = list(verdicts(report))
    assert len(said) == 3
    assert said[-1].startswith("leave_one_out")
    assert said[-1].endswith("NDCG@10 1.250 times the best learned peer, returns 5.00")


def test_a_difference_is_paired_by_target_and_told_by_group(asked: Questions) -> None:
    """Noise that both share is not in it: all that is lost is lost on return visits."""
    random = np.random.default_rng(0).integers(0, 9, PEOPLE).astype(float)
    back = np.arange(PEOPLE) % 2 == 1
    shown = np.ones(7, bool)
    whole, part = (Answers(random + extra, shown) for extra in (0.0, back.astype(float)))
    lost = ndcg(whole.ranks) - ndcg(part.ranks)
    found = with_differences(asked, figures(asked, part), lost)
    assert found["difference"] == pytest.approx(lost.mean())
    low, high = found["difference_interval"]
    assert 0 < low < found["difference"] < high
    # Unpaired, the intervals of the two would meet.
    assert found["ndcg_at_10_interval"][1] > figures(asked, whole)["ndcg_at_10_interval"][0]
    returns = found["groups"]["return_visits"]
    assert returns["targets"] == PEOPLE / 2
    assert returns["difference"] == pytest.approx(2 * found["difference"])
    # A group without targets loses nothing and gains nothing.
    assert found["groups"]["first_requests"] == {"targets": 0}


def test_tables_show_coverage_and_mark_what_is_beyond_its_interval(asked: Questions) -> None:
    answers = Answers(np.zeros(PEOPLE), np.arange(7) < 3)
    plain = figures(asked, answers)
    assert plain["coverage"] == pytest.approx(3 / 7)
    lost = np.full(PEOPLE, 0.25)
    rows = {OURS: plain, PART: with_differences(asked, plain, lost)}
    assert "0.43" in print_table(make_table_of_methods("title", rows))
    assert "+0.2500 [+0.250 +0.250]*" in print_table(*make_difference_table(rows))
    assert not list(make_difference_table({OURS: plain}))
    nothing = {PART: with_differences(asked, plain, np.zeros(PEOPLE))}
    assert "*" not in print_table(*make_difference_table(nothing)).split("\n", 1)[1]


def test_a_chart_has_a_panel_a_protocol_and_a_mark_a_method() -> None:
    rows = {"popularity": row(0.04), "HSTU (RecTools)": row(0.05), OURS: row(0.1), PART: row(0.09)}
    chart = draw({"leave_one_out": rows, "global_time": rows}, "ties strict")
    assert [panel.get_title("left") for panel in chart.axes] == ["leave one out", "global time"]
    assert [text.get_text() for text in chart.axes[0].get_yticklabels()] == list(rows)
    for panel in chart.axes:
        assert [note.get_text() for note in panel.texts] == [".040", ".050", ".100", ".090"]
