"""An engine as Triton's TensorRT backend sees it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from deploy.optimize.profile import Shape
from deploy.optimize.record import ENGINE, EngineRecord
from trainer.export.triton_checks import VARIES, ModelFile, ModelTensor
from trainer.export.triton_config import MAX_BATCH


def engine_file(record: EngineRecord, graph: ModelFile) -> ModelFile:
    """What goes into an engine and comes out; the types are those of its graph.

    Args:
        graph: that it was built of.
    """
    shapes = {name: _range(*shapes) for name, shapes in record.inputs.items()}
    return ModelFile(
        Path(ENGINE), _held(graph.inputs, shapes), _held(graph.outputs, record.outputs)
    )


def profile_refusals(record: EngineRecord) -> Iterator[str]:
    """Batches that Triton may send and the engine does not take, a line for each input."""
    for name, (smallest, _, largest) in record.inputs.items():
        if smallest[0] > 1 or largest[0] < MAX_BATCH:
            yield (
                f"input {name}: built for batches of {smallest[0]} to {largest[0]}, max_batch_size "
                f"is {MAX_BATCH}"
            )


def _range(smallest: Shape, _: Shape, largest: Shape) -> Shape:
    return tuple(
        low if low == high else VARIES for low, high in zip(smallest, largest, strict=True)
    )


def _held(
    tensors: Mapping[str, ModelTensor], shapes: Mapping[str, Shape]
) -> dict[str, ModelTensor]:
    """The tensors in these shapes; one without a type is none of the graph's."""
    return {name: replace(tensors[name], dims=tuple(dims)) for name, dims in shapes.items()}
