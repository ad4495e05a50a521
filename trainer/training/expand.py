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
from trainer.datasets.item_text import item_texts
from trainer.examples.history import History
from trainer.network.architecture import Architecture, architecture
from trainer.network.ensemble import Model, joined
from trainer.network.model import TemporalModel
from trainer.network.trained import Trained
from trainer.settings import Part, TrainerSettings
from trainer.text.encoder import LanguageModel
from trainer.text.item_features import Descriptions, describe_more

# What the version itself makes of its items: the rest of a shape is the settings' choice.
_OF_ITEMS = ("items", "neighbours", "dropout")


def vocabulary_of(live: Trained, history: History, min_events: int) -> Vocabulary:
    """The live version's items, then those that have a text or enough events since.

    `learned` is not of the new version yet.
    """
    names = live.vocabulary.item_ids[FIRST_ITEM:]
    counts = history.events_of
    seen = [name for name, count in counts.items() if count >= min_events]
    told = item_texts(history.catalogue.values()) if live.model.architecture.text else {}
    return Vocabulary(list(dict.fromkeys([*names, *seen, *sorted(told)])))


def grown(
    live: Trained,
    vocabulary: Vocabulary,
    history: History,
    settings: TrainerSettings,
    reader: LanguageModel | None,
) -> Model:
    """A model of the vocabulary that scores the live items as the live version does.

    A new item is what the catalogue says of it. What the live version read of its items stays: they
    are described anew by a training from nothing.

    Args:
        reader: what read the live version's items; None for a version without texts.

    Raises:
        DataError: the live version is not of the shape that the settings ask for.
    """
    reader = None if Part.TEXT in settings.ablate else reader
    shape = architecture(vocabulary, history.schema, settings, reader)
    _check_shape(live.model, shape, settings)
    members = [_wider(member, shape) for member in live.model.members]
    if reader:
        _read_new(members, vocabulary, history, reader)
    return joined(members)


def _wider(live: TemporalModel, shape: Architecture) -> TemporalModel:
    """The live model, and rows of which nothing is known."""
    model = TemporalModel(shape)
    own = model.state_dict()
    for name, values in live.state_dict().items():
        _put(own[name], values)
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


def _put(target: Tensor, values: Tensor) -> None:
    """The first rows, and of wider ones the first columns."""
    if values.dim():
        target[tuple(slice(size) for size in values.shape)] = values
    else:
        target.copy_(values)


def _read_new(
    members: Sequence[TemporalModel],
    vocabulary: Vocabulary,
    history: History,
    reader: LanguageModel,
) -> None:
    """Let rows without a text say what the catalogue has come to say of them."""
    texts, alike = members[0].texts.numpy(), members[0].described.numpy()
    silent = ~np.any(texts, axis=1)
    told = item_texts(history.catalogue.values())
    new = [at for at in np.flatnonzero(silent).tolist() if vocabulary.item_ids[at] in told]
    if not new:
        return
    names = [vocabulary.item_ids[at] for at in new]
    before = Descriptions(texts[~silent], alike[~silent], np.ones((~silent).sum(), np.bool_))
    found = describe_more(names, history.catalogue, reader, before)
    for model in members:
        model.texts[new] = torch.from_numpy(found.texts)
        model.described[new] = torch.from_numpy(found.alike)
        model.recommendable[new] = True
