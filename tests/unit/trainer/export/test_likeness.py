"""What items are alike by, in fewer numbers: products stay, as far as numbers go."""

from __future__ import annotations

import pytest
import torch

from features.schema import FeatureSchema
from tests.harness.models import every_part
from trainer.export import ScoringGraph, sample_inputs
from trainer.export.onnx import torch_answers
from trainer.export.scoring_graph import DenseCooccurrence, Widths, directions
from trainer.network import Architecture, Ensemble, TemporalModel


def test_the_largest_directions_have_most_of_the_products() -> None:
    torch.manual_seed(1)
    vectors, scales = torch.randn(40, 8) * torch.arange(1, 9), torch.randn(8)
    whole = (vectors * scales) @ vectors.T
    left_out = []
    for width in (8, 6, 2):
        onto, values = directions(vectors, scales, width)
        assert onto.shape == (40, width)
        left_out.append((whole - (onto * values) @ onto.T).norm())
    assert left_out[0] < 1e-3 * whole.norm()
    assert left_out[0] < left_out[1] < left_out[2] < whole.norm()


@pytest.mark.parametrize("members", [1, 2])
def test_all_directions_answer_as_the_whole_does_and_fewer_nearly(
    shape: Architecture, schema: FeatureSchema, members: int
) -> None:
    made = [every_part(shape) for _ in range(members)]
    for number, one in enumerate(made):
        torch.nn.init.normal_(one.alike_scales, 1, 0.5 * (number + 1))
    model: TemporalModel | Ensemble = made[0] if members == 1 else Ensemble(made)
    feeds = sample_inputs(shape.items, schema, 9)
    expected = torch_answers(ScoringGraph(model).eval(), schema, feeds)["candidate_scores"]
    apart = []
    for widths in (Widths(shape.alike, shape.related), Widths(2, 1)):
        narrow = ScoringGraph(model, DenseCooccurrence, widths).eval()
        assert narrow.likeness.kinds.shape == (shape.items, sum(widths))
        found = torch_answers(narrow, schema, feeds)["candidate_scores"]
        apart.append(abs(found - expected).max())
    assert apart[0] < 1e-4
    assert apart[1] > 1e-3
