"""The knowledge graph beside MovieLens-100K in RecBole's wheel, as factors of its films.

W. X. Zhao et al.: "KB4Rec: A Data Set for Linking Knowledge Bases with Recommender Systems", Data
Intelligence 1(2), 2019. Entities have no names, so they cannot be read as text.

N items, E entities that at least two items share, K factors.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from headwater_client.events import Item

from bench.language.neighbours import normalised
from bench.quality.questions import Floats

FACTORS = 64
_DATED = re.compile(r"^(?P<title>.*?)\s*\((?P<year>\d{4})\)\s*$")
_ARTICLE_LAST = re.compile(
    r"^(?P<title>.*), (?P<article>the|a|an|il|la|le|les|el|das|der|die|los)$"
)


def graph_factors(folder: Path, item_ids: Sequence[str], links: Mapping[str, str]) -> Floats:
    """What items share with others, float[N, K]; 0 for an item that has no link.

    Neighbouring entities weighted by how rare they are (TF-IDF), then singular vectors. The same
    fact stands in the graph both ways round, so relations are not told apart.

    Args:
        links: the entity of each item, by item id.
    """
    near = _neighbours(folder / "ml-100k.kg")
    mine = [near[links[item_id]] if item_id in links else set() for item_id in item_ids]
    shared = {name: n for name, n in Counter(e for one in mine for e in one).items() if n > 1}
    column = {name: at for at, name in enumerate(shared)}
    weights = np.zeros((len(item_ids), len(shared)))
    for row, entities in enumerate(mine):
        for name in entities & shared.keys():
            weights[row, column[name]] = np.log(len(item_ids) / shared[name])
    left, strength, _ = np.linalg.svd(normalised(weights), full_matrices=False)
    factors: Floats = (left * strength)[:, :FACTORS]
    return factors


def wheel_links(folder: Path) -> dict[str, str]:
    """`ml-100k.link` as it is: it numbers films as later MovieLens releases do."""
    return dict(_rows(folder / "ml-100k.link"))


def matched_links(folder: Path, items: Iterable[Item], names: Path) -> dict[str, str]:
    """The links put right: films are found by title and year in a release that numbers so.

    Args:
        names: `movies.dat` of MovieLens-1M, or `movies.csv` of a later one.
    """
    theirs = wheel_links(folder)
    numbers = {key: number for number, key in _named(names)}
    found = {}
    for item in items:
        number = next((numbers[key] for key in _keys(item) if key in numbers), None)
        if number in theirs:
            found[item.item_id] = theirs[number]
    return found


def _keys(item: Item) -> list[tuple[str, int]]:
    """Title and year, and the years beside it: releases date a film differently."""
    year = str(item.attributes.get("year"))
    if not item.title or not year.isdecimal():
        return []
    return [(_plain(item.title), int(year) + late) for late in (0, -1, 1)]


def _neighbours(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for head, _, tail in _rows(path):
        found[head].add(tail)
        found[tail].add(head)
    return found


def _rows(path: Path) -> Iterator[list[str]]:
    lines = path.read_text().splitlines()
    return (line.split("\t") for line in lines[1:])


def _named(path: Path) -> Iterator[tuple[str, tuple[str, int]]]:
    """The number of each film, and its title and year."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.reader(file))
    else:
        rows = [line.split("::") for line in path.read_text("latin-1").splitlines()]
    for number, name, *_ in rows:
        if dated := _DATED.match(name):
            yield number, (_plain(dated["title"]), int(dated["year"]))


def _plain(title: str) -> str:
    """A title without accents, articles and second names.

    >>> _plain("Postman, The (Il Postino)"), _plain("The Postman")
    ('postman', 'postman')
    """
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode().lower()
    plain = re.sub(r"\(.*?\)", "", plain).strip()
    if turned := _ARTICLE_LAST.match(plain):
        plain = turned["title"]
    return re.sub(r"[^a-z0-9]", "", re.sub(r"^(the|a|an) ", "", plain))
