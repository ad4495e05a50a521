"""`headwater demo`."""

import sys
from typing import Annotated

import typer

from deploy.commands.data_options import Data, Map, Report, Type, data_source
from deploy.demo import DemoOptions, run_demo
from deploy.report import write_report
from deploy.services.supervisor import configure_logs
from deploy.settings import load_settings

Events = Annotated[int | None, typer.Option(help="replay only so many events", min=1)]
Rate = Annotated[float, typer.Option(help="events a second; 0: as fast as they go", min=0)]
LearnEvery = Annotated[
    int | None,
    typer.Option(
        help="run a trainer, too: each so many events become a version; best at --rate 100", min=500
    ),
]


def demo(  # noqa: PLR0913 (its options)
    data: Data = None,
    maps: Map = None,
    types: Type = None,
    events: Events = None,
    rate: Rate = 400,
    learn_every: LearnEvery = None,
    report: Report = None,
) -> None:
    """Play the whole loop: servers, a first model, live recommendations."""
    configure_logs(only_warnings=True)
    settings = load_settings()
    source = data_source(settings, data, maps, types)
    figures = run_demo(settings, DemoOptions(source, events, rate or None, learn_every))
    if report:
        write_report(report, "demo", ["headwater", *sys.argv[1:]], figures)
