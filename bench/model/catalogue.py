"""How fast the whole model is on a GPU as the catalogue grows."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bench.model.calls import GraphCall, torch_run
from bench.model.floor import Ceilings, work
from bench.model.progress import Progress
from bench.model.shapes import recommender_of, requests_of
from bench.model.timing import timed
from deploy.optimize.requests import BATCH
from features.schema import FeatureSchema


def grow(progress: Progress, counts: Sequence[int], schema: FeatureSchema, found: Ceilings) -> None:
    """Time batches of 64 over catalogues of these sizes, as CUDA graphs."""
    for items in counts:
        with progress.part(f"catalogue of {items}"):
            if progress.late:
                raise TimeoutError("left out: time was up")
            recommender = recommender_of(items, schema, "cuda")
            feeds = requests_of(items, schema, BATCH)
            needed = work(recommender, schema, feeds)
            rates = progress.figures.setdefault("catalogue", {}).setdefault(str(items), {})
            for name, half in (("float32", None), ("float16", torch.float16)):
                one = timed(GraphCall(torch_run(recommender, schema, half), feeds), gpu=True)
                rates[f"CUDA graph, {name}"] = {
                    "users_per_second": 1e3 * BATCH / one.run_ms,
                    "over_floor": one.run_ms / needed.floor_ms(found, half is not None),
                }
        torch.cuda.empty_cache()
