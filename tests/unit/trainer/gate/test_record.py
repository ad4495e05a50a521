"""What is kept of verdicts."""

from __future__ import annotations

import resource
import signal
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from headwater_client.errors import DataError
from structlog.testing import capture_logs

from tests.unit.trainer.gate.test_checks import FAIR, SETTINGS
from trainer.gate import Verdict, encode_verdict, record_verdict, verdict
from trainer.gate.checks import WeightGrowth

PASSED = verdict(FAIR, SETTINGS)
REFUSED = verdict(
    replace(FAIR, version=9, growth=WeightGrowth("items.weight", float("inf"))), SETTINGS
)


def test_the_evaluation_says_all_of_it() -> None:
    assert msgspec.json.decode(encode_verdict(PASSED), type=Verdict) == PASSED
    assert encode_verdict(PASSED).count(b"\n") > 20


def test_a_number_that_is_none_is_null() -> None:
    norms = msgspec.json.decode(encode_verdict(REFUSED), type=Verdict).checks[2]
    assert (norms.name, norms.passed, norms.value) == ("norms", False, None)


def test_every_verdict_is_a_line_refused_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "new" / "verdicts.jsonl"
    with capture_logs() as logs:
        record_verdict(PASSED, path)
        record_verdict(REFUSED, path)
    lines = [msgspec.json.decode(line, type=Verdict) for line in path.read_bytes().splitlines()]
    assert [(one.version, one.passed) for one in lines] == [(8, True), (9, False)]
    assert [one["event"] for one in logs] == ["version_passed", "version_refused"]
    assert logs[1]["why"] == ["norms: items.weight has inf times the live version's norm"]


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    record_verdict(PASSED, path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
    try:
        with pytest.raises(DataError, match="version 9 cannot be written"):
            record_verdict(REFUSED, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the verdict on version 8 cannot be written: Is a dir"):
        record_verdict(PASSED, tmp_path)
