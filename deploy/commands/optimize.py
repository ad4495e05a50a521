"""`headwater optimize`."""

from __future__ import annotations

from typing import Annotated

import typer

from deploy.commands.data_options import Data, Map, Type, data_source
from deploy.jobs.optimize import optimize_version
from deploy.optimize.variants import VariantOutcome
from deploy.settings import load_settings
from trainer.datasets import load_log

Number = Annotated[
    int | None, typer.Option("--version", help="of the model repository; default: newest", min=1)
]


def optimize(
    number: Number = None, data: Data = None, maps: Map = None, types: Type = None
) -> None:
    """Build faster variants of a version: INT8 for CPUs, TensorRT engines where there is a GPU.

    Each is kept only if it answers held-out events of the log as the version does.
    """
    settings = load_settings()
    log = load_log(data_source(settings, data, maps, types))
    for outcome in optimize_version(settings, number, log):
        print(_line(outcome))


def _line(outcome: VariantOutcome) -> str:
    parity = outcome.parity
    if outcome.folder is None or parity is None:
        return f"{outcome.variant}: not used, the version stays on ONNX Runtime: {outcome.refusal}"
    return (
        f"{outcome.variant}: {outcome.folder}: {parity.overlap:.1%} of the best 10 are the "
        f"graph's, NDCG@10 {parity.ndcg_ratio:.2%} of its"
    )
