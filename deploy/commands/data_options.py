"""Options that several commands have: those of a log of events, and of a report."""

from pathlib import Path
from typing import Annotated

import typer

from deploy.settings import Settings
from trainer.datasets import DataSource, mapping_from_options

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="file or folder: MovieLens in any of its layouts, CSV or Parquet; "
        "MovieLens-100K if none is given",
    ),
]
Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FIELD=COLUMN",
        help="the column of a table that holds a field (user, item, time, price, title, ...); "
        "again for each",
    ),
]
Type = Annotated[
    list[str] | None,
    typer.Option(
        "--type",
        metavar="TYPE|VALUE=TYPE",
        help="what each row of a table is (click, purchase, another registered type), or what a "
        "value of its type column stands for (one of these, or skip); again for each",
    ),
]

Report = Annotated[Path | None, typer.Option(help="write the figures to this file, as JSON")]


def data_source(
    settings: Settings, data: Path | None, maps: list[str] | None, types: list[str] | None
) -> DataSource:
    """Where the options say that the log is."""
    mapping = mapping_from_options(maps or [], types or [])
    return DataSource(settings.local.cache_dir, data, mapping)
