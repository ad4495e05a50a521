"""Versions to be tried out: one that has learned more, and some that are bad in a way each."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from headwater_client.events import Interaction

from bench.canary.bad_graphs import answers_late, answers_nan
from features.rollout_messages import RolloutPhase
from features.schema import FeatureSchema
from features.vocabulary import FIRST_ITEM, Vocabulary
from trainer.datasets.log import Log
from trainer.examples.history import History
from trainer.examples.splits import slices_of
from trainer.network.trained import Trained
from trainer.registry.drafts import CONFIG, GRAPH, drafted, write_version
from trainer.registry.repository import ModelVersion, version_numbers
from trainer.registry.triton import ModelServer
from trainer.settings import FineTuneSettings, TrainerSettings
from trainer.text.encoder import LanguageModel
from trainer.training.fine_tune import fine_tune

REFUSED = "refused"
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


def learned_more(
    first: Trained,
    before: Log,
    window: Sequence[Interaction],
    schema: FeatureSchema,
    settings: TrainerSettings,
    reader: LanguageModel | None,
) -> Trained:
    """The first model after a window, as the slow loop makes it."""
    history = History(schema, before.items)
    history.extend([*before.events, *window])
    tuning = FineTuneSettings()
    cut = slices_of(history.times_ms, first.until_ms, tuning)
    return fine_tune(first, history, cut, settings, tuning, reader)


def candidates(
    good: Trained, repository: Path, schema: FeatureSchema, settings: TrainerSettings
) -> list[Candidate]:
    """The good one last: what comes before it must not change what it is compared with."""

    def patched(patch: Callable[[Path], None]) -> ModelVersion:
        with drafted(good, repository, schema, settings) as draft:
            patch(draft.folder / GRAPH)
            return draft.keep()

    back = RolloutPhase.ROLLED_BACK.value
    shuffled = write_version(_shuffled(good), repository, schema, settings)
    return [
        Candidate("cannot be loaded", patched(_cut_in_half), REFUSED),
        Candidate("answers NaN", patched(answers_nan), REFUSED),
        Candidate("answers NaN, loaded by hand", patched(answers_nan), back, by_hand=True),
        Candidate(
            "answers late", patched(lambda graph: answers_late(graph, _PRODUCTS)), back, True
        ),
        Candidate("items shuffled", shuffled, back),
        Candidate(
            "learned from a window",
            write_version(good, repository, schema, settings),
            RolloutPhase.PROMOTED.value,
        ),
    ]


def load_by_hand(version: ModelVersion, server: ModelServer) -> None:
    """Load a version beside those that are up, unchecked."""
    model = version.folder.parent
    with server.connected() as triton:
        up = triton.ready(version_numbers(model))
        triton.load((model / CONFIG).read_text(), sorted({*up, version.number}))


def _shuffled(trained: Trained) -> Trained:
    """The same model with its items' rows under other names."""
    vocabulary = trained.vocabulary
    names = list(vocabulary.item_ids[FIRST_ITEM:])
    random.Random(7).shuffle(names)
    return replace(trained, vocabulary=Vocabulary(names, vocabulary.learned[FIRST_ITEM:].tolist()))


def _cut_in_half(graph: Path) -> None:
    whole = graph.read_bytes()
    graph.write_bytes(whole[: len(whole) // 2])
