"""A shortlist finds nearly what the whole catalogue would have given."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.model.shortlist import (
    BLOCK,
    SHORT,
    Catalogue,
    Exact,
    Shortlist,
    answered,
    blocks_of,
    grown,
    index_of,
    recalls,
    short_forms,
    write,
)
from features.inputs import IntArray
from trainer.export.onnx import open_session


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """Five hundred items of sixty kinds, as numbers that fall off, and many more like them."""
    generator = torch.Generator().manual_seed(3)

    def numbers(count: int, width: int) -> torch.Tensor:
        return torch.randn((count, width), generator=generator)

    kinds = numbers(60, 64) * torch.linspace(2, 0.05, 64)
    rows = kinds[torch.arange(500) % 60] + 0.3 * numbers(500, 64)
    return grown(Catalogue(rows, numbers(500, 1)[:, 0], numbers(128, 64)), 12_000)


def test_every_item_is_in_one_block(catalogue: Catalogue) -> None:
    members = blocks_of(short_forms(catalogue)[1])
    assert members.shape[1] == BLOCK
    there = members[members >= 0]
    assert there.sort().values.tolist() == list(range(12_000))


def test_short_forms_have_most_of_the_products(catalogue: Catalogue) -> None:
    short, forms = short_forms(catalogue)
    assert forms.shape == (12_000, SHORT + 1)
    about = (catalogue.people @ short) @ forms[:, :-1].T
    exact = catalogue.people @ catalogue.rows.T
    assert (about - exact).std() < 0.25 * exact.std()


def test_more_blocks_find_more_of_the_best(catalogue: Catalogue, tmp_path: Path) -> None:
    people = catalogue.people.numpy()

    def found(module: torch.nn.Module) -> IntArray:
        path = tmp_path / "graph.onnx"
        write(module.eval(), catalogue.people, path)
        return answered(open_session(path), people, 50)

    expected = found(Exact(catalogue))
    index = index_of(catalogue)
    counts = len(index.members)
    few, many, all_of_them = (
        recalls(expected, found(Shortlist(catalogue, index, blocks)))["recall_at_10"]
        for blocks in (8, 40, counts)
    )
    assert few < many <= all_of_them
    assert many > 0.9
    assert all_of_them > 0.99
