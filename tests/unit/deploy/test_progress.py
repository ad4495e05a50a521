"""The progress of a long job is told, and how long it will take."""

from __future__ import annotations

import io

from rich.console import Console

from deploy.progress import LINE_EVERY_S, ProgressDisplay, show_progress


def test_without_a_terminal_a_line_is_printed_every_ten_seconds() -> None:
    now_s, out = [0.0], io.StringIO()
    display = ProgressDisplay(Console(file=out), None, lambda: now_s[0])
    for second in range(31):
        now_s[0] = float(second)
        display.show("epochs: one", second, 60)
    lines = out.getvalue().splitlines()
    assert LINE_EVERY_S == 10
    assert lines[:2] == ["  epochs: one: 0 of 60", "  epochs: one: 10 of 60, about 50 s left"]
    assert len(lines) == 4


def test_a_phase_begins_with_a_line_and_its_own_clock() -> None:
    now_s, out = [0.0], io.StringIO()
    display = ProgressDisplay(Console(file=out), None, lambda: now_s[0])
    display.show("examples", 0.5, 1.0)
    now_s[0] = 100.0
    display.show("epochs: 1", 0.0, 1.0)
    now_s[0] = 110.0
    display.show("epochs: 2", 0.5, 1.0)
    now_s[0] = 120.0
    display.show("epochs: 2", 0.75, 1.0, seconds_left=70.0)
    assert out.getvalue().splitlines() == [
        "  examples: 50 %",
        "  epochs: 1: 0 %",
        "  epochs: 2: 50 %, about 10 s left",
        "  epochs: 2: 75 %, about 1 min 10 s left",
    ]


def test_a_terminal_has_a_bar_and_no_lines() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80)
    with show_progress(console) as display:
        assert list(display.track("history", "abc")) == ["a", "b", "c"]
    assert "history" in out.getvalue()
    assert "\n  history:" not in out.getvalue()
