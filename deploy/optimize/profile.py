"""The lengths that an engine is built for: smallest, usual and largest of every input."""

from __future__ import annotations

from dataclasses import dataclass

from deploy.optimize.settings import OptimizeSettings
from features.inputs import Tensor, model_inputs
from features.schema import FeatureSchema
from trainer.export.onnx import LENGTHS
from trainer.export.triton_config import MAX_BATCH

Shape = tuple[int, ...]
# Few people are asked about more.
_USUAL_CANDIDATES, _USUAL_EXCLUDED = 64, 128


@dataclass(frozen=True)
class Profile:
    """The shapes of one input."""

    smallest: Shape
    usual: Shape
    largest: Shape

    def takes(self, shape: Shape) -> bool:
        """Whether a tensor of this shape can be read."""
        bounds = zip(self.smallest, shape, self.largest, strict=True)
        return all(low <= length <= high for low, length, high in bounds)


def profiles(schema: FeatureSchema, settings: OptimizeSettings) -> dict[str, Profile]:
    """The profile of each input by its name, for every batch from 1 to `MAX_BATCH`."""
    history = schema.settings.history_length
    lengths = {
        "history": (1, history, history),
        "candidates": (0, min(_USUAL_CANDIDATES, settings.max_candidates), settings.max_candidates),
        "excluded": (0, min(_USUAL_EXCLUDED, settings.max_excluded), settings.max_excluded),
    }
    return {one.name: _profile(one, lengths, settings) for one in model_inputs(schema)}


def _profile(
    tensor: Tensor, lengths: dict[str, tuple[int, int, int]], settings: OptimizeSettings
) -> Profile:
    low, usual, high = (
        lengths[LENGTHS[tensor.name]] if -1 in tensor.shape else tensor.shape * 3  # (F,) thrice
    )
    return Profile((1, low), (settings.batch, usual), (MAX_BATCH, high))
