"""What the language benchmark compares: vectors by their neighbours, a graph of shared facts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from headwater_client.events import Click, Item

from bench.language.__main__ import table
from bench.language.knowledge_graph import graph_factors, matched_links, wheel_links
from bench.language.neighbours import UNSEEN, neighbour_figures, normalised, without
from bench.quality.questions import TRAINING, VALIDATION, Protocol, Takes, questions, takes_of
from trainer.datasets.log import Log

KINDS = 2


def takes_by_kind() -> Takes:
    """Everyone keeps to one of two kinds of ten items each."""
    random = np.random.default_rng(0)
    events = [
        Click(
            event_id=f"{person}/{step}",
            user_id=f"u{person}",
            item_id=f"{person % KINDS}{item}",
            timestamp=1_700_000_000_000 + (100 * person + step) * 1000,
        )
        for person in range(40)
        for step, item in enumerate(random.permutation(10)[:6])
    ]
    return takes_of(Log(events, []), Protocol.GLOBAL_TIME)


def test_vectors_that_know_the_kind_find_new_items() -> None:
    takes = takes_by_kind()
    new = np.array([item_id.endswith("3") for item_id in takes.item_ids])
    takes = without(takes, new)
    asked = questions(takes, VALIDATION)
    kinds = np.array([int(item_id[0]) for item_id in takes.item_ids])
    random = np.random.default_rng(1)
    told = neighbour_figures(np.eye(KINDS)[kinds] + 0.01 * random.random((20, KINDS)), asked)
    untold = neighbour_figures(random.normal(size=(20, KINDS)), asked)
    assert told["mean_rank"] < untold["mean_rank"] - 0.1
    assert told["mean_rank_new_items"] < untold["mean_rank_new_items"] - 0.1
    assert told["groups"]["new_items"]["targets"] > 0


def test_new_items_are_taken_out_of_the_training_alone() -> None:
    takes = takes_by_kind()
    new = np.array([item_id.endswith("3") for item_id in takes.item_ids])
    changed = without(takes, new)
    assert not changed.training_counts()[new].any()
    assert ((changed.part == UNSEEN) == (new[takes.items] & (takes.part == TRAINING))).all()


def test_what_nothing_is_known_of_stays_zero() -> None:
    vectors = np.array([[0.0, 0.0], [3.0, 1.0], [1.0, 3.0]])
    found = normalised(vectors)
    assert not found[0].any()
    np.testing.assert_allclose(np.linalg.norm(found[1:], axis=1), 1)
    np.testing.assert_allclose(found[1], -found[2])


def graph_folder(folder: Path) -> Path:
    (folder / "ml-100k.link").write_text("item_id\tentity_id\n11\tfilm1\n12\tfilm2\n13\tfilm3\n")
    facts = (("film1", "ann"), ("film2", "ann"), ("film3", "bob"), ("film1", "only"))
    lines = [f"{film}\tdirected_by\t{who}" for film, who in facts]
    (folder / "ml-100k.kg").write_text("\n".join(["head\trelation\ttail", *lines]) + "\n")
    return folder


def test_links_are_matched_by_title_and_year(tmp_path: Path) -> None:
    folder = graph_folder(tmp_path)
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n11,"Postman, The (1994)",\n12,A (1990)\n'
    )
    (folder / "movies.dat").write_text("13::The Lamp (Il Lume) (1980)::Drama\n", "latin-1")
    items = [
        Item(item_id="1", title="The Postman (Il Postino)", attributes={"year": 1995}),
        Item(item_id="2", title="A", attributes={"year": 1999}),
        Item(item_id="3", title="Lamp, The", attributes={"year": 1980}),
        Item(item_id="4", title="Without a year"),
        Item(item_id="5", title="Lamp, The", attributes={"year": "V"}),
    ]
    assert matched_links(folder, items, folder / "movies.csv") == {"1": "film1"}
    assert matched_links(folder, items, folder / "movies.dat") == {"3": "film3"}
    assert wheel_links(folder)["12"] == "film2"


def test_films_that_share_a_fact_are_near(tmp_path: Path) -> None:
    links = {"1": "film1", "2": "film2", "3": "film3"}
    factors = graph_factors(graph_folder(tmp_path), ["1", "2", "3", "unlinked"], links)
    np.testing.assert_allclose(factors[0], factors[1], atol=1e-9)
    assert not factors[2:].any()


def test_the_table_has_a_row_for_each_way_to_read() -> None:
    takes = without(takes_by_kind(), np.arange(20) % 10 == 3)
    neighbours = neighbour_figures(np.eye(20), questions(takes, VALIDATION))
    costs = {"trainable": 1000, "memory_mib": 5.0, "cpu_seconds": 2.0, "misplaced": [0.4, 0.3]}
    rows = {
        "top": {**costs, "neighbours": neighbours, "recommender": neighbours},
        "graph": {"neighbours": neighbours},
    }
    drawn = table(rows)
    assert drawn.row_count == len(rows)
    cells = [list(column.cells) for column in drawn.columns]
    assert [column[0] for column in cells][:6] == ["top", "1,000", "5", "2", "0.400", "0.300"]
    assert cells[-1][1] == ""
