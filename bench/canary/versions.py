"""Versions to be tried out: one that has learned more, and some that are bad in a way each."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
from headwater_client.events import Interaction
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from features.rollout_messages import RolloutPhase
from features.schema import FIRST_ITEM, Vocabulary
from trainer.datasets import Log
from trainer.examples import EventHistory, split_by_time
from trainer.network import TrainedModel
from trainer.registry import CONFIG, GRAPH, ModelRegistry, ModelVersion
from trainer.settings import FineTuneSettings
from trainer.text import TextEncoder
from trainer.training import TrainingSetup, fine_tune, train_first_model

REFUSED = "refused"
SCORES = "top_scores"
SIDE = 1024
# Each takes tens of milliseconds: far more than anybody is waited for.
_PRODUCTS = 40


@dataclass(frozen=True)
class Candidate:
    """A version, and what has to become of it.

    Attributes:
        by_hand: loaded without the check that would refuse it, as an operator might.
    """

    name: str
    version: ModelVersion
    expected: str
    by_hand: bool = False


@dataclass(frozen=True)
class Workshop:
    """Where versions are made."""

    registry: ModelRegistry
    text_encoder: TextEncoder | None

    def train(self, log: Log) -> TrainedModel:
        """A first model of a log."""
        return train_first_model(
            log,
            self.registry.schema,
            TrainingSetup(self.registry.settings, text_encoder=self.text_encoder),
        )

    def learn_more(
        self, first: TrainedModel, before: Log, window: Sequence[Interaction]
    ) -> TrainedModel:
        """The first model after a window, as the slow loop makes it."""
        history = EventHistory(self.registry.schema, before.items)
        history.extend([*before.events, *window])
        tuning = FineTuneSettings()
        cut = split_by_time(history.times_ms, first.until_ms, tuning)
        return fine_tune(
            first, history, cut, TrainingSetup(self.registry.settings, tuning, self.text_encoder)
        )

    def write_patched(self, trained: TrainedModel, patch: Callable[[Path], None]) -> ModelVersion:
        """The next version, its graph changed."""
        with self.registry.stage(trained) as staged:
            patch(staged.folder / GRAPH)
            return staged.commit()


def make_candidates(good: TrainedModel, workshop: Workshop) -> list[Candidate]:
    """The good one last: what comes before it must not change what it is compared with."""
    back = RolloutPhase.ROLLED_BACK.value
    write = partial(workshop.write_patched, good)
    return [
        Candidate("cannot be loaded", write(_cut_in_half), REFUSED),
        Candidate("answers NaN", write(answer_nan), REFUSED),
        Candidate("answers NaN, loaded by hand", write(answer_nan), back, by_hand=True),
        Candidate(
            "answers late", write(partial(answer_late, products=_PRODUCTS)), back, by_hand=True
        ),
        Candidate("items shuffled", workshop.registry.write_version(_shuffle_items(good)), back),
        Candidate(
            "learned from a window",
            workshop.registry.write_version(good),
            RolloutPhase.PROMOTED.value,
        ),
    ]


def load_by_hand(version: ModelVersion, registry: ModelRegistry) -> None:
    """Load a version beside those that are up, unchecked."""
    repository = registry.repository
    with registry.servers[0].connect() as triton:
        up = triton.list_ready(repository.version_numbers())
        triton.load((repository.model / CONFIG).read_text(), sorted({*up, version.number}))


def _shuffle_items(trained: TrainedModel) -> TrainedModel:
    """The same model with its items' rows under other names."""
    vocabulary = trained.vocabulary
    names = list(vocabulary.item_ids[FIRST_ITEM:])
    random.Random(7).shuffle(names)
    return replace(trained, vocabulary=Vocabulary(names, vocabulary.learned[FIRST_ITEM:].tolist()))


def _cut_in_half(graph: Path) -> None:
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])


def answer_nan(graph: Path) -> None:
    """Let every score of a graph be NaN."""
    model = onnx.load(graph)
    nan = numpy_helper.from_array(np.array(np.nan, np.float32), "nan")
    model.graph.initializer.append(nan)
    _add_to_scores(model, [], "nan")
    onnx.save(model, graph)


def answer_late(graph: Path, products: int) -> None:
    """Let a graph multiply large matrices first: each product takes tens of milliseconds."""
    model = onnx.load(graph)
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(np.zeros((SIDE, SIDE), np.float32), "zeros"),
            numpy_helper.from_array(np.array(products, np.int64), "products"),
            numpy_helper.from_array(np.array(True), "always"),
        ]
    )
    square = [SIDE, SIDE]
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going_on"], ["still_going_on"]),
            helper.make_node("MatMul", ["factor", "zeros"], ["product"]),
        ],
        "one_product",
        [
            value("round", TensorProto.INT64, []),
            value("going_on", TensorProto.BOOL, []),
            value("factor", TensorProto.FLOAT, square),
        ],
        [
            value("still_going_on", TensorProto.BOOL, []),
            value("product", TensorProto.FLOAT, square),
        ],
    )
    late = [
        # From an input, or it would be computed once for all.
        helper.make_node("Cast", ["request_time_ms"], ["time"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["time"], ["newest"], keepdims=0),
        helper.make_node("Add", ["zeros", "newest"], ["first"]),
        helper.make_node("Loop", ["products", "always", "first"], ["last"], body=body),
        helper.make_node("ReduceMax", ["last"], ["nothing"], keepdims=0),
    ]
    _add_to_scores(model, late, "nothing")
    onnx.save(model, graph)


def _add_to_scores(model: ModelProto, nodes: list[NodeProto], term: str) -> None:
    for node in model.graph.node:
        for at, name in enumerate(node.output):
            if name == SCORES:
                node.output[at] = "good_scores"
    model.graph.node.extend([*nodes, helper.make_node("Add", ["good_scores", term], [SCORES])])
