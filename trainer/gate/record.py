"""Verdicts as they are kept: beside the version, and in a log of all, refused ones too."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import structlog
from headwater_client.errors import DataError

from trainer.gate.checks import Verdict

EVALUATION = "evaluation.json"
VERDICTS = "verdicts.jsonl"

log = structlog.get_logger()


def encode_verdict(verdict: Verdict) -> bytes:
    """What `evaluation.json` beside a version holds; numbers that are none are null."""
    return msgspec.json.format(msgspec.json.encode(verdict), indent=2)


def record_verdict(verdict: Verdict, path: Path) -> None:
    """Add a line to the log of verdicts, and say what came out.

    Raises:
        DataError: the log cannot be written; it is as it was.
    """
    try:
        _append(path, msgspec.json.encode(verdict) + b"\n")
    except OSError as error:
        raise DataError(
            f"{path}: the verdict on version {verdict.version} cannot be written: "
            f"{error.strerror}: make room, or let the folder be written"
        ) from error
    if verdict.passed:
        log.info("version_passed", version=verdict.version, live=verdict.live)
    else:
        log.warning(
            "version_refused", version=verdict.version, live=verdict.live, why=verdict.refusals
        )


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        if file.write(line) == len(line):
            return
        # A disk that became full took a part.
        file.truncate(before)
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
