"""Logs of events out of files: MovieLens, or a shop's own tables."""

from trainer.datasets.inspection import LogSummary, summarise_log
from trainer.datasets.log import (
    DataSource,
    Log,
    examine_catalogue,
    examine_log,
    item_text,
    item_texts,
    load_log,
)
from trainer.datasets.movielens import movielens_100k
from trainer.datasets.records import RefusedRecord, RowCounts
from trainer.datasets.tables import ColumnMapping, RowType, mapping_from_options

__all__ = [
    "ColumnMapping",
    "DataSource",
    "Log",
    "LogSummary",
    "RefusedRecord",
    "RowCounts",
    "RowType",
    "examine_catalogue",
    "examine_log",
    "item_text",
    "item_texts",
    "load_log",
    "mapping_from_options",
    "movielens_100k",
    "summarise_log",
]
