"""Fuzz everything that reads what others wrote: does a decoder take its bytes, or refuse them?

    uv run --group fuzz python -m bench.soak.decoders --minutes 60

Each decoder (`targets`) is led by the code that its bytes reach, in a process of its own, by
libFuzzer (Atheris), for its share of the time. A defect is an error that its contract does not
name, an answer that takes more than `TIMEOUT_S`, or more than `MEMORY_MB`: it is printed with the
bytes that made it.
"""

import base64
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from headwater_client.errors import SettingsError
from rich.console import Console
from rich.table import Table

from bench.harness.runner import Benchmark, Options, Results, work_folder
from bench.soak.decoders.targets import make_targets

TIMEOUT_S, MEMORY_MB = 20, 2_048
LONGEST_INPUT = 65_536
_SHOWN_BYTES = 2_000
_RUNS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_REACHED = re.compile(r"cov: (\d+)")


@dataclass(frozen=True, kw_only=True)
class DecoderOptions(Options):
    """How long, and which."""

    minutes: Annotated[float, typer.Option(help="of all decoders together", min=0.01)] = 60.0
    seed: Annotated[int, typer.Option(help="of what is drawn", min=1)] = 1
    only: Annotated[str, typer.Option(help="decoders whose names begin so")] = ""


@dataclass(frozen=True)
class _Outcome:
    runs: int
    reached: int
    defect: dict[str, str] | None


def measure(options: DecoderOptions, console: Console) -> Results:
    """Fuzz one decoder after another."""
    with work_folder() as folder:
        names = [name for name in make_targets(folder) if name.startswith(options.only)]
        if not names:
            raise SettingsError(f"--only {options.only}: no decoder's name begins so")
        seconds = max(1, round(60 * options.minutes / len(names)))
        found: dict[str, _Outcome] = {}
        for number, name in enumerate(names, 1):
            console.print(f"{number} of {len(names)}: {name}: {seconds} s")
            found[name] = _fuzz(name, folder / f"fuzz-{number}", seconds, options.seed)
            if found[name].defect:
                console.print(found[name].defect)
    table = Table("decoder", "runs", "reached", "defect", box=None)
    for name, outcome in found.items():
        said = outcome.defect["error"] if outcome.defect else ""
        table.add_row(name, f"{outcome.runs:,}", f"{outcome.reached:,}", said)
    figures: dict[str, Any] = {
        "decoders": len(found),
        "runs": sum(outcome.runs for outcome in found.values()),
        "defects": {name: each.defect for name, each in found.items() if each.defect},
        "runs_of": {name: each.runs for name, each in found.items()},
        "seconds_each": seconds,
    }
    return Results(figures, [table, f"{figures['runs']:,} runs, {len(figures['defects'])} defects"])


def _fuzz(name: str, folder: Path, seconds: int, seed: int) -> _Outcome:
    folder.mkdir()
    command = (
        *(sys.executable, "-m", "bench.soak.decoders.process", name, str(folder)),
        *(f"-max_total_time={seconds}", f"-seed={seed}", f"-timeout={TIMEOUT_S}"),
        *(f"-rss_limit_mb={MEMORY_MB}", f"-max_len={LONGEST_INPUT}", "-print_final_stats=1"),
    )
    ended = subprocess.run(command, capture_output=True, check=False)
    said = ended.stderr.decode(errors="replace") + ended.stdout.decode(errors="replace")
    runs, reached = _RUNS.findall(said), _REACHED.findall(said)
    outcome = int(runs[-1]) if runs else 0, int(reached[-1]) if reached else 0
    return _Outcome(*outcome, _describe_defect(folder, said, ended.returncode))


def _describe_defect(folder: Path, said: str, code: int) -> dict[str, str] | None:
    kept = next(iter(folder.glob("defect-*")), None)
    if code == 0 and kept is None:
        return None
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    at = next((i for i, line in enumerate(lines) if "Uncaught Python exception" in line), None)
    error = lines[at + 1] if at is not None else next(iter(lines[-1:]), "it said nothing")
    raw = kept.read_bytes() if kept else b""
    return {
        "error": error,
        "size": str(len(raw)),
        "bytes": base64.b64encode(raw[:_SHOWN_BYTES]).decode(),
        "trace": "\n".join(lines[at : at + 40]) if at is not None else "\n".join(lines[-20:]),
    }


BENCHMARK = Benchmark("soak.decoders", DecoderOptions, measure)

if __name__ == "__main__":
    BENCHMARK.main()
