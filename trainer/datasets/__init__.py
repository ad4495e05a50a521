"""Logs of events out of files: MovieLens, or a shop's own tables."""

from trainer.datasets.item_text import item_text, item_texts
from trainer.datasets.log import DataSource, Log, load_log
from trainer.datasets.mapping import ColumnMapping, RowType, mapping_from_options
from trainer.datasets.movielens import movielens_100k
from trainer.datasets.records import RefusedRecord

__all__ = [
    "ColumnMapping",
    "DataSource",
    "Log",
    "RefusedRecord",
    "RowType",
    "item_text",
    "item_texts",
    "load_log",
    "mapping_from_options",
    "movielens_100k",
]
