"""A test that leaves something behind is found; a server that is started again is not."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.leaks import Left

WAIT = "import sys; print('up', flush=True); sys.stdin.read()"


@contextmanager
def child() -> Iterator[subprocess.Popen[bytes]]:
    command, pipe = [sys.executable, "-c", WAIT], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as process:
        assert process.stdout
        process.stdout.readline()
        yield process


def test_a_thread_a_child_and_a_variable_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    before = Left.now()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait, name="left")
    thread.start()
    monkeypatch.setenv("LEFT", "1")
    with child() as process:
        left = Left.now().since(before)
    stop.set()
    thread.join()
    assert left[0].startswith(f"process {process.pid}: {sys.executable}")
    assert left[1:] == ["thread left", "variable LEFT"]


def test_a_program_that_was_started_again_is_none() -> None:
    with child():
        before = Left.now()
        with child():
            assert Left.now().since(before)
    with child():
        assert Left.now().since(before) == []
        with child() as second:
            [left] = Left.now().since(before)
            assert left.startswith(f"process {second.pid}:")
