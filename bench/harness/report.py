"""How a benchmark runs as a command, and leaves its report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from headwater_client.errors import HeadwaterError

from deploy import report


def run_benchmark(main: Callable[..., None]) -> None:
    """Run a benchmark's command; what goes wrong ends in a line."""
    try:
        typer.run(main)
    except HeadwaterError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def write_report(path: Path, benchmark: str, figures: Mapping[str, Any]) -> None:
    """Write the report of a benchmark, `bench.NAME`."""
    program = ("python", "-m", f"bench.{benchmark}", *sys.argv[1:])
    report.write_report(path, benchmark, program, figures)
