"""The demo waits for somebody who reads, and for nobody else."""

from __future__ import annotations

import io
import os
import threading

import pytest
from rich.console import Console

from deploy.demo.screen import Screen


def screen(written: io.StringIO, *, is_terminal: bool) -> Screen:
    return Screen({}, Console(file=written, force_terminal=is_terminal, width=200))


def test_at_a_terminal_it_goes_on_until_enter(monkeypatch: pytest.MonkeyPatch) -> None:
    person, terminal = os.openpty()
    written = io.StringIO()
    with os.fdopen(terminal, closefd=True) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        waiting = threading.Thread(
            target=screen(written, is_terminal=True).wait_for_enter, args=("look",)
        )
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        os.write(person, b"\n")
        waiting.join(10)
        assert not waiting.is_alive()
    os.close(person)
    assert "look" in written.getvalue()


def test_a_program_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr("sys.stdin", io.StringIO("never read"))
    for is_terminal in (True, False):
        screen(written, is_terminal=is_terminal).wait_for_enter("look")
    assert written.getvalue() == ""
