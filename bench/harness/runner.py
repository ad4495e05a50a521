"""A benchmark as a command: its options, its tables, its report, its chart.

    python -m bench.NAME --report FILE --chart FILE ...

The options of a benchmark are a dataclass, each field annotated as typer wants it. What the
benchmark measures comes back as `Results`; the runner prints, writes and draws them.
"""

import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar, get_type_hints

import typer
from headwater_client.errors import HeadwaterError
from matplotlib.figure import Figure
from rich.console import Console, RenderableType
from rich.table import Table

from bench.harness import charts
from deploy import report
from deploy.commands.data_options import Data, Map, Type, load_log
from deploy.settings import default_cache_dir
from trainer.datasets import DataSource, Log, mapping_from_options

# No training is cut short because a machine is slow.
UNHURRIED_S = 86_400.0

Quick = Annotated[bool, typer.Option(help="a small part: whether it works")]
Threads = Annotated[int, typer.Option(help="of training", min=1)]
Cores = Annotated[int, typer.Option(help="how many cores everything shares", min=1)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every benchmark can be asked for."""

    report: Annotated[Path | None, typer.Option(help="write the figures here, as JSON")] = None


@dataclass(frozen=True, kw_only=True)
class ChartOptions(Options):
    """Options of a benchmark that draws its figures."""

    chart: Annotated[
        Path | None, typer.Option(help="draw the figures: an SVG, PNG or PDF file")
    ] = None


@dataclass(frozen=True, kw_only=True)
class DataOptions(Options):
    """Options of a benchmark on a log that is read in one of its known layouts."""

    data: Data = None

    @property
    def source(self) -> DataSource:
        """Where the log is."""
        return DataSource(default_cache_dir(), self.data)

    def load_log(self) -> Log:
        """Read the log."""
        return load_log(self.source)


@dataclass(frozen=True, kw_only=True)
class MappedDataOptions(DataOptions):
    """Options of a benchmark on a log that may be any table."""

    maps: Map = None
    types: Type = None

    @property
    def source(self) -> DataSource:
        """Where the log is, and what its columns hold."""
        mapping = mapping_from_options(self.maps or [], self.types or [])
        return DataSource(default_cache_dir(), self.data, mapping)


@dataclass(frozen=True)
class Results:
    """What a benchmark has measured.

    Attributes:
        figures: what the report holds.
        shown: tables and lines for people.
        draw_chart: called if a chart was asked for.
        fault: of what was measured, in a line; it ends the command with 1, once all is written.
    """

    figures: Mapping[str, Any]
    shown: Sequence[RenderableType]
    draw_chart: Callable[[], Figure] | None = None
    fault: str = ""


AnyOptions = TypeVar("AnyOptions", bound=Options)


@dataclass(frozen=True)
class Benchmark(Generic[AnyOptions]):
    """A benchmark.

    Attributes:
        name: `bench.NAME` is its module.
        options: its dataclass of options.
        measure: does the work, given the options and a console for progress.
        width: of its tables.
    """

    name: str
    options: type[AnyOptions]
    measure: Callable[[AnyOptions, Console], Results]
    width: int | None = None

    def main(self) -> None:
        """Run as a command; what goes wrong ends in a line."""
        try:
            typer.run(self._command())
        except HeadwaterError as error:
            print(f"bench: {error}", file=sys.stderr)
            sys.exit(error.exit_code)

    def run(self, options: AnyOptions) -> None:
        """Measure; print, write and draw the results."""
        results = self.measure(options, Console(stderr=True))
        printer = Console(width=self.width)
        for each in results.shown:
            printer.print(each, highlight=False)
        if options.report:
            self.write_report(options.report, results.figures)
        if isinstance(options, ChartOptions) and options.chart and results.draw_chart:
            charts.save(results.draw_chart(), options.chart)
        if results.fault:
            raise HeadwaterError(results.fault)

    def write_report(self, path: Path, figures: Mapping[str, Any]) -> None:
        """Write a report as JSON: benchmark, command, machine, versions, figures."""
        program = ("python", "-m", f"bench.{self.name}", *sys.argv[1:])
        report.write_report(path, self.name, program, figures)

    def _command(self) -> Callable[..., None]:
        """A function whose parameters are the options, as typer reads them."""

        def command(**chosen: Any) -> None:
            self.run(self.options(**chosen))

        hints = get_type_hints(self.options, include_extras=True)
        parameters = [
            Parameter(one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=kind)
            for one in fields(self.options)
            for kind in (hints[one.name],)
        ]
        command.__doc__ = self.measure.__doc__
        command.__annotations__ = {one.name: one.annotation for one in parameters}
        command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        return command


def make_table(title: str, rows: str, columns: Iterable[str]) -> Table:
    """An empty table: what the rows are stands on the left, figures to the right of it.

    Args:
        rows: what the first column is called.
    """
    table = Table(rows, title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


@contextmanager
def work_folder(kept: Path | None = None) -> Iterator[Path]:
    """The folder that was asked for, or one that is gone afterwards."""
    if kept:
        yield kept
    else:
        with tempfile.TemporaryDirectory(prefix="headwater-bench-") as folder:
            yield Path(folder)
