"""Scoring a whole catalogue, and two ways that need not: weights in INT8, and a shortlist.

What is timed is what grows with the catalogue: from a person's numbers to the best 100 items. The
items are those of a trained version, and as many more that are like them: each is one of those with
noise. Who asks are people of the log.

Q people, W numbers of a person and of an item, N items, R numbers of a short form, C blocks,
S items of a block, P blocks that are looked at, M items that are scored exactly.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from deploy.optimize.quantised import quiet
from features.inputs import TOP_ITEMS, FloatArray, IntArray

BLOCK = 128
SHORT = 48
SCORED = 512
_NOISE = 0.5
_CHUNK = 65_536
_SAMPLE, _ROUNDS = 100_000, 6
_BIAS = 1


@dataclass(frozen=True)
class Catalogue:
    """Items and who asks.

    Attributes:
        rows: float[N, W]; an item's score is its product with a person, and its bias.
        biases: float[N].
        people: float[Q, W].
    """

    rows: Tensor
    biases: Tensor
    people: Tensor


def grown(known: Catalogue, items: int) -> Catalogue:
    """A catalogue of so many items: the known ones first, then some like them."""
    generator = torch.Generator().manual_seed(0)
    count = len(known.rows)
    of = torch.randint(count, (max(0, items - count),), generator=generator)
    noise = torch.randn((len(of), known.rows.shape[1]), generator=generator)
    rows = known.rows[of] + _NOISE * known.rows.std(0) * noise
    shift = torch.randn(len(of), generator=generator) * _NOISE * known.biases.std()
    return Catalogue(
        torch.cat([known.rows, rows])[:items],
        torch.cat([known.biases, known.biases[of] + shift])[:items],
        known.people,
    )


class Exact(nn.Module):
    """The best of all items."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        self.register_buffer("rows", catalogue.rows.T.contiguous())
        self.register_buffer("biases", catalogue.biases)

    def forward(self, people: Tensor) -> Tensor:
        """int64[B, K]."""
        scores = people @ self.rows + self.biases  # type: ignore[operator]
        return scores.topk(TOP_ITEMS, 1).indices


class Index(NamedTuple):
    """What makes people short, float[W, R]; items so, float[N, R + 1]; and which lie together."""

    short: Tensor
    forms: Tensor
    members: Tensor


def index_of(catalogue: Catalogue) -> Index:
    """Lay the items of a catalogue together."""
    short, forms = short_forms(catalogue)
    return Index(short, forms, blocks_of(forms))


class Shortlist(nn.Module):
    """The best of the items in the likeliest blocks: short forms first, then the items themselves.

    Items that score alike lie in a block (k-means of their short forms): an inverted file, as in
    H. Jegou, M. Douze, C. Schmid, "Product quantization for nearest neighbor search", IEEE PAMI 33,
    2011.

    Args:
        index: of the catalogue.
        blocks: that are looked at.
    """

    short: Tensor
    means: Tensor
    members: Tensor
    forms: Tensor
    rows: Tensor
    biases: Tensor

    def __init__(self, catalogue: Catalogue, index: Index, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        short, forms, members = index
        # An empty place is the first item's: it is scored twice, and shown once at most.
        there = members >= 0
        self.register_buffer("short", short)
        self.register_buffer("members", members.clamp(min=0))
        forms = torch.where(there[:, :, None], forms[self.members], 0)
        self.register_buffer("means", forms.sum(1) / there.sum(1, keepdim=True))
        forms[:, :, -_BIAS] = forms[:, :, -_BIAS].masked_fill(~there, -1e9)
        self.register_buffer("forms", forms)
        self.register_buffer("rows", catalogue.rows)
        self.register_buffer("biases", catalogue.biases)

    def forward(self, people: Tensor) -> Tensor:
        """int64[B, K]."""
        asked = torch.cat([people @ self.short, torch.ones_like(people[:, :_BIAS])], 1)
        likely = (asked @ self.means.T).topk(self.blocks, 1).indices
        about = (self.forms[likely].flatten(1, 2) @ asked[:, :, None])[:, :, 0]
        places = about.topk(SCORED, 1).indices
        items = self.members[likely].flatten(1).gather(1, places)
        exact = (self.rows[items] @ people[:, :, None])[:, :, 0] + self.biases[items]
        return items.gather(1, exact.topk(TOP_ITEMS, 1).indices)


def short_forms(catalogue: Catalogue) -> tuple[Tensor, Tensor]:
    """Fewer numbers whose products are nearly the same for people such as those who ask.

    The best for their second moment: a singular value decomposition of the items in the metric of
    the people (Eckart, Young, 1936).

    Returns:
        What makes a person short, float[W, R], and the items, float[N, R + 1], with their biases.
    """
    people = catalogue.people.double()
    moment = people.T @ people / len(people)
    values, turned = torch.linalg.eigh(moment)
    sizes = values.clamp(min=values.max() * 1e-9).sqrt()
    metric, back = turned * sizes, turned / sizes
    weighed = catalogue.rows @ metric.float()
    _, onto = torch.linalg.eigh((weighed.T @ weighed).double())
    onto = onto[:, -SHORT:].float()
    forms = torch.cat([weighed @ onto, catalogue.biases[:, None]], 1)
    return back.float() @ onto, forms


def blocks_of(forms: Tensor) -> Tensor:
    """Which items lie together, int64[C, S]; -1 where a block has fewer."""
    generator = torch.Generator().manual_seed(0)
    clusters = max(1, len(forms) // (2 * BLOCK))
    sample = forms[torch.randperm(len(forms), generator=generator)[:_SAMPLE]]
    means = sample[:clusters].clone()
    for _ in range(_ROUNDS):
        nearest = _nearest(sample, means)
        sums = torch.zeros_like(means).index_add_(0, nearest, sample)
        counts = torch.bincount(nearest, minlength=clusters)[:, None]
        means = torch.where(counts > 0, sums / counts.clamp(min=1), means)
    nearest = _nearest(forms, means)
    order = nearest.argsort(stable=True).numpy()
    ends = torch.bincount(nearest, minlength=clusters).cumsum(0).tolist()
    together = [one for one in np.split(order, ends[:-1]) if len(one)]
    cut = [one[at : at + BLOCK] for one in together for at in range(0, len(one), BLOCK)]
    parts = [torch.from_numpy(one) for one in cut]
    return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=-1)


def _nearest(points: Tensor, means: Tensor) -> Tensor:
    sizes, chunks = (means**2).sum(1) / 2, -(-len(points) // _CHUNK)
    return torch.cat([(each @ means.T - sizes).argmax(1) for each in points.chunk(chunks)])


def write(module: nn.Module, people: Tensor, path: Path) -> None:
    """Write what scores as an ONNX graph."""
    with warnings.catch_warnings():
        # As in `trainer.export.onnx.write_graph`.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (people[:3],),
            path,
            dynamo=False,
            opset_version=17,
            input_names=["people"],
            output_names=["items"],
            dynamic_axes={"people": {0: "batch"}, "items": {0: "batch"}},
        )


def write_int8(exact: Path, path: Path) -> None:
    """The same with the items in INT8, a scale for each."""
    with quiet():
        quantize_dynamic(
            exact,
            path,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=exact.stat().st_size > 1 << 30,
            extra_options={"MatMulConstBOnly": True},
        )


def recalls(expected: IntArray, found: IntArray) -> dict[str, float]:
    """The share of the best that are found, of 10 and of 100.

    >>> recalls(np.arange(100)[None], np.arange(5, 105)[None])
    {'recall_at_10': 0.5, 'recall_at_100': 0.95}
    """
    return {
        f"recall_at_{best}": float(
            np.mean(
                [np.isin(a[:best], b[:best]).mean() for a, b in zip(expected, found, strict=True)]
            )
        )
        for best in (10, TOP_ITEMS)
    }


def answered(session: onnxruntime.InferenceSession, people: FloatArray, batch: int) -> IntArray:
    """The best items of everyone, batch by batch, int64[Q, K]."""
    parts = [
        session.run(None, {"people": people[at : at + batch]})[0]
        for at in range(0, len(people), batch)
    ]
    return np.concatenate(parts)
