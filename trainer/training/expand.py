"""A live version with more items: new rows at the end, live ones where they were.

N items of the new model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from headwater_client.errors import DataError
from torch import Tensor

from features.vocabulary import FIRST_ITEM, Vocabulary
from trainer.datasets import item_texts
from trainer.examples import EventHistory
from trainer.network import (
    Architecture,
    Model,
    TemporalModel,
    TrainedModel,
    architecture_of,
    join_models,
)
from trainer.settings import ModelPart, TrainerSettings
from trainer.text import ItemDescriptions, TextEncoder, describe_more

# What the version itself makes of its items: the rest of a shape is the settings' choice.
_OF_ITEMS = ("items", "neighbours", "dropout")


def next_vocabulary(live: TrainedModel, history: EventHistory, min_events: int) -> Vocabulary:
    """The live version's items, then those that have a text or enough events since.

    `learned` is not of the new version yet.
    """
    names = live.vocabulary.item_ids[FIRST_ITEM:]
    counts = history.events_of
    seen = [name for name, count in counts.items() if count >= min_events]
    told = item_texts(history.catalogue.values()) if live.model.architecture.text else {}
    return Vocabulary(list(dict.fromkeys([*names, *seen, *sorted(told)])))


def expand_vocabulary(
    live: TrainedModel,
    vocabulary: Vocabulary,
    history: EventHistory,
    settings: TrainerSettings,
    text_encoder: TextEncoder | None,
) -> Model:
    """A model of the vocabulary that scores the live items as the live version does.

    A new item is what the catalogue says of it. What the live version read of its items stays: they
    are described anew by a training from nothing.

    Args:
        text_encoder: what read the live version's items; None for a version without texts.

    Raises:
        DataError: the live version is not of the shape that the settings ask for.
    """
    text_encoder = None if ModelPart.TEXT in settings.ablate else text_encoder
    shape = architecture_of(vocabulary, history.schema, settings, text_encoder)
    _check_shape(live.model, shape, settings)
    members = [_widen(member, shape) for member in live.model.members]
    if text_encoder:
        _describe_new(members, vocabulary, history, text_encoder)
    return join_models(members)


def _widen(live: TemporalModel, shape: Architecture) -> TemporalModel:
    """The live model, and rows of which nothing is known."""
    model = TemporalModel(shape)
    own = model.state_dict()
    for name, values in live.state_dict().items():
        _copy_rows(own[name], values)
    known = live.architecture.items
    model.learned[known:] = False
    model.recommendable[known:] = False
    with torch.no_grad():
        # Without events there is nothing to start from but the text.
        unlearned = torch.nonzero(~model.learned[FIRST_ITEM:]).flatten() + FIRST_ITEM
        model.items.weight[unlearned] = 0
        model.item_bias[unlearned] = 0
    return model


def _check_shape(live: Model, wanted: Architecture, settings: TrainerSettings) -> None:
    found = asdict(live.architecture) | {"ensemble_size": len(live.members)}
    asked = asdict(wanted) | {"ensemble_size": settings.ensemble_size}
    for name in sorted(found.keys() - set(_OF_ITEMS)):
        if found[name] != asked[name]:
            raise DataError(
                f"the live version has {name} {found[name]}, the settings ask for {asked[name]}: "
                "put the setting back, or train from nothing: headwater train"
            )


def _copy_rows(target: Tensor, values: Tensor) -> None:
    """The first rows, and of wider ones the first columns."""
    if values.dim():
        target[tuple(slice(size) for size in values.shape)] = values
    else:
        target.copy_(values)


def _describe_new(
    members: Sequence[TemporalModel],
    vocabulary: Vocabulary,
    history: EventHistory,
    text_encoder: TextEncoder,
) -> None:
    """Let rows without a text say what the catalogue has come to say of them."""
    texts, alike = members[0].texts.numpy(), members[0].described.numpy()
    silent = ~np.any(texts, axis=1)
    told = item_texts(history.catalogue.values())
    new = [at for at in np.flatnonzero(silent).tolist() if vocabulary.item_ids[at] in told]
    if not new:
        return
    names = [vocabulary.item_ids[at] for at in new]
    before = ItemDescriptions(texts[~silent], alike[~silent], np.ones((~silent).sum(), np.bool_))
    found = describe_more(names, history.catalogue, text_encoder, before)
    for model in members:
        model.texts[new] = torch.from_numpy(found.texts)
        model.described[new] = torch.from_numpy(found.alike)
        model.recommendable[new] = True
